"""Every public method of Docker's SDK for Python, by reflection, and which of them have been called."""

import functools
import importlib
import inspect
import pkgutil

import docker
import docker.models
from docker.models.resource import Collection, Model


def classes():
    """Returns the SDK's classes with what can be called on them: the API client, models and their collections."""
    found = {"APIClient": docker.APIClient}
    for module in pkgutil.iter_modules(docker.models.__path__):
        loaded = importlib.import_module("docker.models." + module.name)
        for name, kind in inspect.getmembers(loaded, inspect.isclass):
            if issubclass(kind, (Model, Collection)) and kind not in (Model, Collection):
                found[name] = kind
    return found


def members(kind):
    """Returns (name, where it is defined) of the class's public methods and properties that the SDK itself defines."""
    for name in dir(kind):
        home = next(base for base in kind.__mro__ if name in vars(base))
        value = vars(home)[name]
        if not name.startswith("_") and home.__module__.startswith("docker.") and (inspect.isfunction(value) or isinstance(value, property)):
            yield name, home


def everything():
    return {f"{name}.{member}" for name, kind in classes().items() for member, _ in members(kind)}


class Recorder:
    """While it is entered it notes every call of a public method, also those that the SDK makes of itself."""

    def __init__(self):
        self.called = set()
        self.before = []

    def __enter__(self):
        homes = {(home, member) for kind in classes().values() for member, home in members(kind)}
        for home, member in homes:
            value = vars(home)[member]
            self.before.append((home, member, value))
            if isinstance(value, property):
                setattr(home, member, property(self.noting(member, value.fget)))
            else:
                setattr(home, member, self.noting(member, value))
        return self

    def noting(self, member, function):
        @functools.wraps(function)
        def noted(self_, *arguments, **options):
            self.called.add(f"{type(self_).__name__}.{member}")
            return function(self_, *arguments, **options)

        return noted

    def __exit__(self, *_):
        for home, member, value in self.before:
            setattr(home, member, value)
        self.before.clear()
