"""The site's pages, one module for each part; `app` says which address leads where.

A page is a plain function from a `Visit` to a response.  It runs in a thread and may
block; it raises what goes wrong, and `problems` makes a page of that.
"""
