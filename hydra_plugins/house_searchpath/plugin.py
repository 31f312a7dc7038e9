"""Makes the stock commands find our configs and accept our classes; nothing else.

Search paths, in decreasing priority:

1. the folder given with ``--config-path``,
2. the working folder (put there by anemoi's own plugin),
3. our configs,
4. the configs packaged with anemoi-training.

Hydra runs the plugins in an order that depends on how they were installed, and each can only append or
insert. Where ours runs first, it lets anemoi's plugin do its part right away; what that appends a second
time, when its own turn comes, has no effect.

Hydra imports this module in every process that composes a config, and turns an ImportError in it into a
warning. So only Hydra itself is imported here, and what can fail runs in the plugin, where it is loud.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.plugins.search_path_plugin import SearchPathPlugin

ANEMOI_CONFIGS = SearchPathQuery(provider="anemoi-package-searchpath-plugin")


class HouseSearchPathPlugin(SearchPathPlugin):
    """Puts our configs between the working folder and anemoi's, and registers resolvers and schemas."""

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
