"""What LaTeX's commands and environments are to a reader: structure, signs, or nothing at all."""

from __future__ import annotations

from groundup.corpus.sources.latex_source import words

MATH = {
    "equation",
    "align",
    "gather",
    "multline",
    "eqnarray",
    "displaymath",
    "flalign",
    "alignat",
    "math",
    "dmath",
    "subequations",
}
DROPPED = {
    "tikzpicture",
    "picture",
    "pspicture",
    "comment",
    "filecontents",
    "CCSXML",
    "psfrags",
    "pgfpicture",
    "tikzcd",
}
CODE = {"verbatim", "lstlisting", "minted", "alltt", "Verbatim"}
LISTS = {"itemize", "enumerate", "description", "compactitem", "compactenum", "inparaenum"}
FLOATS = {"figure", "wrapfigure", "SCfigure", "subfigure", "algorithm", "sidewaysfigure", "teaserfigure"}
TABULAR = {"tabular", "tabularx", "tabulary", "longtable", "tabu", "array"}
THEOREMS = {
    "theorem": "Theorem", "thm": "Theorem", "lemma": "Lemma", "lem": "Lemma", "corollary": "Corollary",
    "cor": "Corollary", "proposition": "Proposition", "prop": "Proposition", "definition": "Definition",
    "defn": "Definition", "remark": "Remark", "rem": "Remark", "example": "Example", "conjecture": "Conjecture",
    "claim": "Claim", "proof": "Proof", "assumption": "Assumption", "fact": "Fact", "question": "Question",
}  # fmt: skip
SECTIONS = {
    "part": 2,
    "chapter": 2,
    "section": 2,
    "subsection": 3,
    "subsubsection": 4,
    "paragraph": 5,
    "subparagraph": 6,
}
SILENT = words("""
    label vspace hspace vskip hskip usepackage bibliographystyle bibliography includegraphics setlength setcounter
    addtocounter addtolength pagestyle thispagestyle newtheorem thanks color pagenumbering graphicspath hypersetup
    documentclass documentstyle epsfig psfig epsfbox input include special tableofcontents nocite index markboth
    title author date institute affiliation address email keywords pacs fontsize selectfont definecolor
    RequirePackage theoremstyle phantom vphantom hphantom rule resizebox scalebox raisebox newcounter
    newenvironment renewenvironment maketitle cellcolor rowcolor arraystretch cline cmidrule bibitem
    addbibresource captionsetup titlerunning authorrunning ccsdesc setcopyright acmConference printbibliography
    refstepcounter stepcounter hyphenation addcontentsline newlength DeclareGraphicsExtensions pdfoutput tikzset
    usetikzlibrary algrenewcommand lstset textcolor@ fancyhead fancyfoot linespread thefootnote twocolumn
    onecolumn
""")
FIRST_OF_TWO_DROPPED = words("""
    textcolor colorbox parbox href multicolumn multirow hyperref rotatebox
""")
SYMBOLS = {
    "ldots": "…", "dots": "…", "textellipsis": "…", "LaTeX": "LaTeX", "TeX": "TeX", "ss": "ß", "ae": "æ", "AE": "Æ",
    "oe": "œ", "OE": "Œ", "o": "ø", "O": "Ø", "aa": "å", "AA": "Å", "l": "ł", "L": "Ł", "i": "i", "j": "j", "S": "§",
    "P": "¶", "copyright": "©", "textregistered": "®", "texttrademark": "™", "pounds": "£", "euro": "€", "dag": "†",
    "ddag": "‡", "textbackslash": "\\", "textasciitilde": "~", "textbar": "|", "textless": "<", "textgreater": ">",
    "quad": " ", "qquad": " ", "newline": "\n", "linebreak": "\n", "par": "\n\n", "slash": "/", "textendash": "–",
    "textemdash": "—", "textquoteleft": "‘", "textquoteright": "’", "textbullet": "•", "textdegree": "°", "degree": "°",
    "xspace": "", "noindent": "", "centering": "", "newpage": "\n\n", "clearpage": "\n\n", "medskip": "\n\n",
    "bigskip": "\n\n", "smallskip": "\n\n", "checkmark": "✓", "item": "\n- ", "hline": "", "toprule": "", "midrule": "",
    "bottomrule": "", "today": "", "ie": "i.e.", "eg": "e.g.", "etal": "et al.", "and": ", ",
}  # fmt: skip
ACCENTS = {
    "'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304", ".": "\u0307",
    "c": "\u0327", "v": "\u030c", "u": "\u0306", "H": "\u030b", "k": "\u0328", "r": "\u030a", "d": "\u0323",
    "b": "\u0331",
}  # fmt: skip
PLAIN = {"~": " ", "---": "—", "--": "–", "``": "“", "''": "”", "&": " "}
KNOWN = words("""
    textbf textit emph texttt textsc textsf textrm textup textmd textsl text mbox hbox em bf it sl sc tt rm sf
    small large Large LARGE huge Huge tiny footnotesize scriptsize normalsize underline uline bm boldsymbol mathrm
    section left right begin end appendix protect ensuremath fbox makebox centerline leavevmode bfseries itshape
    ttfamily scshape sffamily rmfamily normalfont upshape mdseries raggedright flushleft sloppy frenchspacing
    nobreak relax hfill vfill hfil vfil null strut indent bgroup egroup clubpenalty pagebreak nopagebreak
    goodbreak break allowbreak cleardoublepage doublespacing singlespacing onehalfspacing balance IEEEPARstart fi
    else iftrue
""")
