"""What is said of a cluster that cannot be reached, with words in place of librados."""

from typing import cast

import pytest
import rados

from radosmount.config import Config, StoreConfig
from radosmount.errors import MountError
from radosmount.store.rados.connection import _set_option

SECRET = "AQBnmGFnAAAAABAA1Yj8Zl2lYxSXEBT4fLk1Zw=="


class Refusing:
    """A handle that takes no option."""

    def conf_set(self, option: str, value: str) -> None:
        raise rados.Error(f"no {option} such as {value}")


@pytest.mark.parametrize("option", ["key", "debug_ms"])
def test_a_refused_value_is_not_told(option: str) -> None:
    """It may be secret: who has given it knows it. The option's name says which it was."""
    with pytest.raises(MountError, match=f"option {option}") as refusal:
        _set_option(cast(rados.Rados, Refusing()), option, SECRET)
    assert SECRET not in str(refusal.value)
    assert refusal.value.__suppress_context__


def test_settings_tell_no_secret() -> None:
    """Whoever logs the settings as a whole logs no key."""
    config = Config(store=StoreConfig(options=(("key", SECRET),)))
    assert SECRET not in repr(config)
