"""Any arithmetic in a config file of nanoGPT: a profile that can be built, or a sentence."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gptcli.errors import ProfileError
from gptcli.nanogpt_config import DEFAULTS, import_config
from gptcli.profiles import build_profile


@given(
    st.sampled_from(sorted(DEFAULTS)),
    st.recursive(
        st.sampled_from(["1", "0", "2.5", "'a'", "True", "None", "x", "1e308", "1" + "0" * 400, "0x" + "f" * 9000]),
        lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "**"]), inner),
    ),
)
def test_every_expression_gives_a_profile_or_a_sentence(key: str, expression: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.py").write_text(f"x = 3\n{key} = {expression}\n", "utf-8")
        try:
            imported = import_config(Path(folder) / "config.py")
        except ProfileError:
            return
    assert build_profile(imported.values)
