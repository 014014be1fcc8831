"""report.html: what a run did and how good it is, in one file that needs nothing else.

`outcome` is what is shown, `figures` the pictures of it, `page` puts them together; page.html, page.css and
sort.js are the page. matplotlib is not imported before it draws.
"""
