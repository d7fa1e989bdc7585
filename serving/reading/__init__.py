"""The reading page: what was asked, by urgency; each image with its heat-map and the answer in plain words; the reader's own verdict.

cases.py     what was asked and answered, kept for a reader: pixels too, so only where a site switches it on, and only for a while
words.py     an answer in plain words
pages.py     the routes
templates/ static/   no script or font from elsewhere
"""
