"""Balancing: which users should live elsewhere, so that no cluster has too much.

Where things are, along the way of one plan, ``lj balance survey`` then ``lj balance plan``::

    survey.py     how many bytes and rows every user has: counted on the clusters, a
                  few at a time, kept in `global`
    tables.py     which tables of a cluster are users': found by their `userid` key
    store.py      what the survey found, disks, pinned users, write rates: tables of `global`
    loading.py    all of that, the site file and the moves under way as a snapshot
    snapshot.py   one moment of clusters and users, in columns: 10 million users fit
    rules.py      the operator's targets, limits and cluster states, from the site file
    targets.py    the fair level, each cluster's target, the fewest bytes that must move
    planner.py    snapshot + rules -> plan: a pure function
    sides.py      the books that it keeps of those who give and those who take
    findings.py   why something can't be done, and what would help
    plan.py       the plan: moves in order, the forecast of every cluster
    plan_file.py  the plan as a text that an operator can read, edit and replay

Nothing here moves a user: a plan is fed to whoever does.

Nothing is imported on the way in, so that programs which only need the rules do not
load numpy.
"""
