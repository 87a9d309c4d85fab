"""Pieces of Project Gutenberg's files, as they were written over thirty years, to put around a work."""

from __future__ import annotations

HEADER = """The Project Gutenberg EBook of A Tale of a Tub, by Jonathan Swift

This eBook is for the use of anyone anywhere at no cost and with
almost no restrictions whatsoever.  You may copy it, give it away or
re-use it under the terms of the Project Gutenberg License included
with this eBook or online at www.gutenberg.org

Title: A Tale of a Tub

Author: Jonathan Swift

Release Date: May, 2003 [EBook #4737]

Language: English

"""
START = "*** START OF THIS PROJECT GUTENBERG EBOOK A TALE OF A TUB ***"
END = "*** END OF THIS PROJECT GUTENBERG EBOOK A TALE OF A TUB ***"
FOOTER = """

***** This file should be named 4737.txt or 4737.zip *****
This and all associated files of various formats will be found in:
        http://www.gutenberg.org/4/7/3/4737/

Updated editions will replace the previous one--the old editions
will be renamed.

*** START: FULL LICENSE ***

THE FULL PROJECT GUTENBERG LICENSE
PLEASE READ THIS BEFORE YOU DISTRIBUTE OR USE THIS WORK
"""
SMALL_PRINT = """***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is this "Small Print!" statement here?  You know: lawyers.
They tell us you might sue us if there is something wrong with
your copy of this etext, even if you got it for free from
someone other than us, and even if what's wrong is not our fault.
"""
END_OF_SMALL_PRINT = "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*"
NOTICE = """<<THIS ELECTRONIC VERSION OF THE COMPLETE WORKS OF WILLIAM
SHAKESPEARE IS COPYRIGHT 1990-1993 BY WORLD LIBRARY, INC., AND IS
PROVIDED BY PROJECT GUTENBERG ETEXT OF CARNEGIE MELLON UNIVERSITY
WITH PERMISSION.  ELECTRONIC AND MACHINE READABLE COPIES MAY BE
DISTRIBUTED SO LONG AS SUCH COPIES (1) ARE FOR YOUR OR OTHERS
PERSONAL USE ONLY, AND (2) ARE NOT DISTRIBUTED OR USED
COMMERCIALLY.  PROHIBITED COMMERCIAL DISTRIBUTION INCLUDES BY ANY
SERVICE THAT CHARGES FOR DOWNLOAD TIME OR FOR MEMBERSHIP.>>"""


def ebook(body: str, start: str = START, end: str = END) -> str:
    """Return a file of this century with this between its markers."""
    return f"{HEADER}{start}\n\n\n\n{body}\n\n\n\n{end}\n{FOOTER}"


def etext(body: str, end_of_small_print: str = END_OF_SMALL_PRINT) -> str:
    """Return a file of the nineties, which has no markers and the small print on top."""
    top = "***The Project Gutenberg Etext of A Tale of a Tub***\nby Jonathan Swift\n\nMay, 1997  [Etext #4737]\n\n"
    return f"{top}{SMALL_PRINT}\n{end_of_small_print}\n\n\n{body}\n"
