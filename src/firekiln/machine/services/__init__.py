"""Images with an init of their own: the application as a unit or service of that init."""

from firekiln.machine.services.initsystem import InitSystem, detect
from firekiln.machine.services.own import InitChoice, OwnInit, own_init

__all__ = ["InitChoice", "InitSystem", "OwnInit", "detect", "own_init"]
