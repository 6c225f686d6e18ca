"""cacsnet: fully automated coronary artery calcium scoring on non-contrast CT. Research use; not a medical device."""

__version__ = "0.1.0"
