#!/usr/bin/python
"""Ansible module: write the definition of a service, with the fingerprint of what it reads."""

import hashlib
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: service_definition
short_description: Write the definition of a service, with the fingerprint of what it reads
description:
  - The definition holds a fingerprint of files that the service reads at its start, so that it
    changes whenever one of them does, and whoever keeps the service running starts it again.
  - Does at once what would take a task that looks at the files and one that writes another.
options:
  path: {type: path, required: true, description: Where the definition lies.}
  content: {type: str, required: true, description: The definition.}
  reads:
    description: Paths of the files; one that is not there counts as absent, which is a state, too.
    type: list
    elements: str
    default: []
  stand_in:
    description: What C(content) has in the place of the fingerprint.
    type: str
    required: true
extends_documentation_fragment: [files]
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""
EXAMPLES = """
- name: Define the program
  service_definition:
    path: /etc/lj/supervisor.d/journal.conf
    content: "{{ lookup('ansible.builtin.template', 'program.conf.j2') }}"
    reads: [/etc/lj/journal.toml]
    stand_in: "@fingerprint@"
    mode: "0600"
"""
RETURN = """
fingerprint: {type: str, returned: always, description: "Of the files, 12 hexadecimal digits."}
"""


def fingerprint_of(paths):
    """Twelve hexadecimal digits, others whenever one of the files changes, comes or goes."""
    lines = []
    for path in paths:
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - as modules do it
                lines.append(hashlib.sha256(file.read()).hexdigest() + "  " + path)
        except OSError:
            continue
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def write(module, path, content):
    """Put a whole file in the place of the old one."""
    handle, new = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "wb") as file:
        file.write(content.encode())
    module.atomic_move(new, path)


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "content": {"type": "str", "required": True},
            "reads": {"type": "list", "elements": "str", "default": []},
            "stand_in": {"type": "str", "required": True},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    path = module.params["path"]
    fingerprint = fingerprint_of(module.params["reads"])
    after = module.params["content"].replace(module.params["stand_in"], fingerprint)
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            before = file.read().decode(errors="replace")
    except FileNotFoundError:
        before = None
    diff = {
        "before": before or "",
        "after": after,
        "before_header": path,
        "after_header": path,
    }
    if before != after and not module.check_mode:
        write(module, path, after)
    changed = module.set_fs_attributes_if_different(
        module.load_file_common_arguments(module.params, path=path), before != after
    )
    module.exit_json(changed=changed, fingerprint=fingerprint, path=path, diff=diff)


if __name__ == "__main__":
    main()
