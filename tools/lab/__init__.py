"""A lab of virtual machines on this machine, for roles that need kernels of their own.

The hosts are those of an inventory that has ``lab_kind: vm``; what is done with them
afterwards is Ansible's business.  ``python -m tools.lab --help`` is the way in, and
molecule's shared ``create`` and ``destroy`` playbooks use it.

=================  ==============================================================
``plan``           what the inventory asks for: hosts, networks, disks
``image``          the disk image that all hosts begin with, built once and kept
``seed``           what makes one host out of it: name, addresses, keys
``network``        bridges, taps and the links between them
``machine``        one qemu: power on, pull, press, cut a link, mend it
``accelerator``    kvm where a guest boots with it, else tcg
``keeper``         the process that holds a lab: its namespaces, machines, control
``control``        starts a keeper, talks to it, ends it
``ledger``         a client that commits, and remembers what was acknowledged
=================  ==============================================================

**Nothing is left behind.**  The keeper is process 1 of a process namespace, and has a
network namespace of its own; bridges, taps and every qemu are in there.  When it ends,
in whatever way, the kernel ends everything in it.  What remains is the state folder,
which ``down`` removes; ``up`` does so first, so a lab that crashed is in nobody's way.

**One way in and out.**  The lab's network is reached from the machine by entering its
namespace, never by routes: the state folder's ``ssh_config`` does so for ssh (and with
it for Ansible).  Guests reach the keeper at the lab's own address, where it plays the
part of a rack's power switch.
"""
