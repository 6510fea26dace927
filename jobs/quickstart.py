"""Run all stages on the corpus that ships: python -m jobs.quickstart [section.key=value ...]."""

import sys
from pathlib import Path

from uniner.cli import main
from uniner.quickstart.prepare import prepare

CONFIG = Path(__file__).parent / "configs" / "quickstart.toml"

if __name__ == "__main__":
    sys.argv.insert(1, str(CONFIG))
    main(prepare=prepare)
