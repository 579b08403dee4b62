"""The health check: exits 0 where the application says that it is well, else 1, and prints what it says."""

import os
import sys
import urllib.error
import urllib.request

try:
    with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}/health", timeout=4) as answer:
        print(answer.read().decode().strip())
except urllib.error.URLError as error:
    sys.exit(f"not well: {error}")
