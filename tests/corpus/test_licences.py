"""Licences: what a name, an expression, a licence file and a file's header mean, and what a recipe permits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.corpus.licences import (
    PERMISSIVE,
    families_of,
    family_of,
    is_permitted,
    licence_of_file,
    licence_of_header,
    licence_of_licence_file,
)

MIT = """MIT License

Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software, to deal in it
without restriction. The above copyright notice and this permission notice shall be included in all copies."""
BSD2 = "Redistribution and use in source and binary forms, with or without modification, are permitted."
BSD3 = f"{BSD2} Neither the name of the copyright holder may be used to endorse products."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MIT, "MIT"),
        (BSD2, "BSD-2-Clause"),
        (BSD3, "BSD-3-Clause"),
        (f"{BSD3} All advertising materials mentioning features must say so.", "BSD-4-Clause"),
        (f"{MIT}\n\nThis file also holds parts under:\n{BSD3}", "MIT AND BSD-3-Clause"),
        ("                    GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007", "GPL-3.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE\nVersion 2.1, February 1999", "LGPL-2.1"),
        ("GNU AFFERO GENERAL PUBLIC LICENSE\nVersion 3, 19 November 2007", "AGPL-3.0"),
        ("   Apache License\n   Version 2.0, January 2004", "Apache-2.0"),
        ("Mozilla Public License Version 2.0\n====", "MPL-2.0"),
        ("Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is "
         "hereby granted, provided that the above copyright notice appears.", "ISC"),
        ("Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is "
         "hereby granted.", "0BSD"),
        ("This is free and unencumbered software released into the public domain.", "Unlicense"),
        ("Creative Commons Attribution-NonCommercial 4.0 International", "CC-BY-NC-4.0"),
        ("Business Source License 1.1", "BUSL-1.1"),
        ('"Commons Clause" License Condition v1.0. Software: x. License: MIT', "LicenseRef-Commons-Clause"),
        ("You may use this on Tuesdays.", ""),
    ],
)  # fmt: skip
def test_a_licence_file_is_told_by_its_text(text: str, expected: str) -> None:
    assert licence_of_licence_file(text) == expected


GPL_SENTENCE = (
    "This program is free software; you can redistribute it under the terms of the GNU General Public License\n"
    "{0} as published by the Free Software Foundation; either version 2 of the License, or\n"
    "{0} (at your option) any later version."
)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("// SPDX-License-Identifier: (MIT OR Apache-2.0)\nfn main() {}", "(MIT OR Apache-2.0)"),
        ("/* SPDX-License-Identifier: GPL-2.0-only */\nint x;", "GPL-2.0-only"),
        ("<!-- SPDX-License-Identifier: BSD-3-Clause -->\n<p>", "BSD-3-Clause"),
        ("#!/bin/sh\n# " + GPL_SENTENCE.format("#"), "GPL-2.0-or-later"),
        ("/*\n   " + GPL_SENTENCE.format(" ") + "\n*/\nint x;", "GPL-2.0-or-later"),
        ("dnl " + GPL_SENTENCE.format("dnl"), "GPL-2.0-or-later"),
        ('"""\nLicensed under the Apache License, Version 2.0 (the "License")\n"""', "Apache-2.0"),
        ("// Use of this source code is governed by a BSD-style license that is in LICENSE.", "BSD-3-Clause"),
        ("% This work is in the public domain", "CC0-1.0"),
        ("text = 'the GNU General Public License'\n", ""),
        ("import os\n", ""),
    ],
)
def test_a_header_is_read_in_comments_only(head: str, expected: str) -> None:
    assert licence_of_header(head) == expected
    assert licence_of_file(head, "PSF") == (families_of(expected) if expected else "PSF")


@pytest.mark.parametrize(
    ("expression", "families"),
    [
        ("Apache-2.0 OR BSD-2-Clause", "Apache OR BSD"),
        ("MIT/Apache-2.0", "MIT OR Apache"),
        ("MIT AND (Apache-2.0 OR GPL-2.0-only)", "MIT AND Apache OR MIT AND GPL"),
        ("(MIT OR Apache-2.0) AND Unicode-DFS-2016", "MIT AND unknown OR Apache AND unknown"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL"),
        ("CC-BY-NC-SA-4.0", "CC-BY-NC"),
        ("LGPL-2.1-or-later", "LGPL"),
        ("((MIT", "MIT"),
        ("", "unknown"),
    ],
)
def test_expressions_become_families_with_their_alternatives(expression: str, families: str) -> None:
    assert families_of(expression) == families


def test_a_licence_with_a_condition_is_never_in_the_free_ones_family() -> None:
    for name in ("CC-BY-NC-4.0", "CC BY-ND 4.0", "Creative Commons Attribution-NonCommercial", "BUSL-1.1", "AGPL-3.0"):
        assert family_of(name) not in PERMISSIVE | {"CC-BY", "GPL"}, name


def test_permissive_is_a_word_for_many() -> None:
    assert is_permitted("MIT", ["permissive"])
    assert is_permitted("GPL OR BSD", ["permissive"])
    assert not is_permitted("MIT AND GPL", ["permissive"])
    assert is_permitted("MIT AND GPL", ["permissive", "GPL"])
    assert not is_permitted("unknown", ["permissive"])
    assert is_permitted("unknown", [])


tokens = st.lists(st.sampled_from(["MIT", "GPL-3.0", "Apache-2.0", "(", ")", "AND", "OR", "/", "x"]), max_size=12)


@given(tokens)
def test_no_expression_however_broken_is_an_error(parts: list[str]) -> None:
    families = families_of(" ".join(parts))
    assert families
    assert is_permitted(families, [])
    if "MIT" not in parts and "Apache-2.0" not in parts:
        assert not is_permitted(families, ["permissive"])
