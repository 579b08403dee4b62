"""What holds for all tests."""

import signal

# A shell that starts the tests in its background, or nohup, has them ignore signals, and what they start inherits
# that: but tests of what a signal does need it to do something.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
