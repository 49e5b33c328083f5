"""The viewer: runs to look at in a browser, live from this machine or as one file.

sources    what there is to look at: run files, trees of single searches
columns    one strategy of one run, and what it came to on each problem
listing    the list of problems, with what it can be filtered by
overview   the figures of the runs, and the rounds of an evolution
choosing   the rule that chose an answer, and what each path counted
rounds     the table and the curves of an evolution
result     one answer and why it won
steps      one step: its line in a tree, and all of it
formulas   TeX as MathML
outline    a tree in pieces, so that only what is open is rendered
book       all of these by name: what the server sends and what an exported page holds
document   the page around them: style, script, content security policy
export     the page as one file
app        the page on a port of this machine
"""
