"""Verifiers by kind of problem, and the grouping of equal answers.

judges      Judges: the table from kinds to verifiers and groupers
programs    runs programs on inputs in the sandbox; compares their outputs outside of it
values      the values that cross from the sandbox, and their comparison
code        verifier, grouper and scorer of code problems
agreement   generated inputs, and outputs on which several programs agree
choices     reads the letters of options
texts       normalises short texts: yes and no, names, dates
opinions    asks a model whether two texts are the same answer
"""
