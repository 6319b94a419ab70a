"""Workers clean the HTML of posts: what is not known to be harmless is taken out.

``lj gearman worker journal.clean_html=lj_services.journal.sanitize:clean_html``

It is done here and not in the site's own processes so that they need not load the
library; nothing of the site may import this module (see `cleaning` for its caller).
"""

from __future__ import annotations

from typing import Final

import nh3

from lj_services.gearman.worker import Job

TAGS: Final = {
    *("a", "abbr", "b", "blockquote", "br", "cite", "code", "dd", "del", "dl", "dt", "em"),
    *("h3", "h4", "h5", "h6", "hr", "i", "ins", "kbd", "li", "ol", "p", "pre", "q", "s"),
    *("samp", "small", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr"),
    *("u", "ul", "var"),
}
"""What a post may be made of.  No pictures: they would tell others who reads it."""
ATTRIBUTES: Final = {"a": {"href", "title"}, "abbr": {"title"}, "td": {"colspan", "rowspan"}}


def clean_html(job: Job) -> str:
    """The job's HTML, closed where tags were left open, without what might do harm.

    Raises:
        UnicodeDecodeError: it is no UTF-8.
    """
    return nh3.clean(
        job.payload.decode(),
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="nofollow ugc noopener noreferrer",
    )
