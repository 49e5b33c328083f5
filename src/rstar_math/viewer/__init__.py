"""The viewer: shows runs in a browser, live or as one exported HTML file.

sources    reads run files and single trees
pages      renders HTML and JSON fragments by name, for the server and for the exported page
overview   accuracy by strategy, rounds of an evolution
result     one answer and why it won
steps      steps in outline and in full, formulas as MathML
export     the page, and its export to one file; needs no web server
app        the web application
"""
