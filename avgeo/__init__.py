"""avgeo: where on Earth was this clip recorded, and which sounds and sights say so?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avgeo.locate import locate as locate

__version__ = "0.1.0"
__all__ = ["__version__", "locate"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: `avgeo --help` and `import avgeo` should not wait for it
    if name == "locate":
        from avgeo.locate import locate

        return locate
    raise AttributeError(f"module 'avgeo' has no attribute {name!r}")
