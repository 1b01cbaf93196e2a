"""matplotlib: what a reduction cuts, and what that costs at which frequency, drawn into axes of yours or new ones.

Every function returns the axes, shows nothing, and changes no setting of matplotlib.
"""

try:
    import matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("matplotlib is not installed: pip install 'balred[plot]'") from error

from balred.adapters.matplotlib.bode import plot_bode
from balred.adapters.matplotlib.plans import plot_plan
from balred.adapters.matplotlib.responses import plot_error, plot_sigma
from balred.adapters.matplotlib.spectra import plot_hsv

__all__ = ["plot_bode", "plot_error", "plot_hsv", "plot_plan", "plot_sigma"]
