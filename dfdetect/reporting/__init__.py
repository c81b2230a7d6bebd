"""Show results to people: as text, HTML pages, figures, annotated videos and a local web page."""
