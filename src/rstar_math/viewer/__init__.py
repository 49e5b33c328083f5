"""The viewer: runs in a browser, live from this machine or as one file.

sources    run files and single trees
pages      fragments by name: what the server sends and what an exported page holds
overview   accuracy by strategy, rounds of an evolution
result     one answer and why it won
steps      steps in outline and in full, formulas as MathML
tree_svg   a tree as a picture
app        the web application and the exported page
"""
