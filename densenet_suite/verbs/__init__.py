"""What can be done, one file for each verb: the functions that Python and the command line share.

Modules here import no torch at their top, so that a misspelt key is answered at once.
"""
