"""Write the table of keys into docs/sweeps.md, from launch/sweep/sweep_file.py.

python docs/sweep_keys.py            # --check: only say, by exit code 1, whether it would change
"""

import sys
from pathlib import Path

if not __package__:  # run as a script: import from this tree
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.sweep import sweep_file

PAGE = Path(__file__).with_name("sweeps.md")
BEGIN, END = "<!-- keys: made by docs/sweep_keys.py -->\n", "<!-- end of keys -->\n"


def with_table(text: str) -> str:
    """The page with the table of now between its two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{sweep_file.table()}\n{END}{after}"


if __name__ == "__main__":
    kept = PAGE.read_text(encoding="utf-8")
    made = with_table(kept)
    if "--check" in sys.argv:
        sys.exit(made != kept)
    PAGE.write_text(made, encoding="utf-8")
