"""``python -m webhook`` is ``leeway``."""

from webhook.cli.main import main

main()
