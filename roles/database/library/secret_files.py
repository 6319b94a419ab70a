#!/usr/bin/python
"""Ansible module: write many small files that are for their owners alone."""

import os
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: secret_files
short_description: Write many small files that are for their owners alone
description:
  - Has files with the given contents, all of them readable by nobody but their owner.
  - Does at once what would take two modules for each file. What the files hold is not told.
options:
  files:
    description: The files, in existing directories.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {type: path, required: true, description: Where the file lies.}
      content: {type: str, required: true, description: What it holds.}
      owner: {type: str, default: "", description: "Account; empty: left as it is."}
      group: {type: str, default: "", description: "Group; empty: left as it is."}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""
EXAMPLES = """
- name: Write the passwords
  secret_files:
    files:
      - {path: /etc/lj/secrets/database-global, content: "{{ password }}", owner: lj}
"""
RETURN = """
paths: {type: list, elements: str, returned: always, description: Files that were changed.}
"""
FILE = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "required": True, "no_log": True},
    "owner": {"type": "str", "default": ""},
    "group": {"type": "str", "default": ""},
}


def have(module, wanted):
    """Have one file as it is wanted; whether that changed something."""
    path, content = wanted["path"], wanted["content"].encode()
    owners = {"mode": "0600", "owner": wanted["owner"] or None, "group": wanted["group"] or None}
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as modules do it
            same = file.read() == content
    except FileNotFoundError:
        same = False
    if same or module.check_mode:
        attributes = module.load_file_common_arguments(owners, path=path)
        return module.set_fs_attributes_if_different(attributes, not same)
    # It takes its place when it is whole and its owner's: nobody else can read it at any moment,
    # and its owner can at all times.
    handle, new = tempfile.mkstemp(dir=os.path.dirname(path))  # noqa: PTH120
    module.add_cleanup_file(new)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    module.set_fs_attributes_if_different(module.load_file_common_arguments(owners, path=new), True)
    os.replace(new, path)  # noqa: PTH105
    return True


def main():
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": FILE}
        },
        supports_check_mode=True,
    )
    changed = [wanted["path"] for wanted in module.params["files"] if have(module, wanted)]
    module.exit_json(changed=bool(changed), paths=changed)


if __name__ == "__main__":
    main()
