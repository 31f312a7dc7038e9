"""Makes the stock commands find our configs and accept our classes; nothing else.

Search paths, in decreasing priority:

1. the folder given with ``--config-path``,
2. the working directory (added by anemoi's own plugin),
3. our configs,
4. the configs packaged with anemoi-training.

Hydra runs plugins in an order that depends on how they were installed, and a plugin can only append or insert. If ours
runs first, it has anemoi's plugin append its paths right away; what that appends again in its own turn has no effect.

Hydra imports this module in every process that composes a config, and turns an ImportError in it into a warning. So it
imports nothing but Hydra, and everything that can fail is imported when the plugin runs, where errors are loud.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.plugins.search_path_plugin import SearchPathPlugin

ANEMOI_CONFIGS = SearchPathQuery(provider="anemoi-package-searchpath-plugin")


class HouseSearchPathPlugin(SearchPathPlugin):
    """Put our configs between the working directory and anemoi's, and register resolvers and schemas."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Insert our configs.

        Parameters
        ----------
        search_path : ConfigSearchPath
            Hydra's search path.
        """
        from anemoi_house.plugin import registration
        from anemoi_house.shipped import config_folder

        if not any(entry.provider == ANEMOI_CONFIGS.provider for entry in search_path.get_path()):
            from hydra_plugins.anemoi_searchpath.anemoi_searchpath_plugin import AnemoiSearchPathPlugin

            AnemoiSearchPathPlugin().manipulate_search_path(search_path)
        search_path.prepend(provider="anemoi-house", path=f"file://{config_folder()}", anchor=ANEMOI_CONFIGS)
        registration.register()
