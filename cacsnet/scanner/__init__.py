"""What a CT scanner does to anatomy; images the phantom and re-images real scans. See docs/scanner.md."""

from cacsnet.scanner.finish import finish
from cacsnet.scanner.imaging import image
from cacsnet.scanner.materials import CALCIUM_HU_PER_MG_CC, IODINE_HU_PER_MG_CC
from cacsnet.scanner.motion import move
from cacsnet.scanner.noise import noise
from cacsnet.scanner.profiles import ScannerProfile, draw_protocol, load_profile, profile_names
from cacsnet.scanner.protocol import Protocol
from cacsnet.scanner.reimage import reimage
from cacsnet.scanner.streaks import metal_streaks

__all__ = [
    "CALCIUM_HU_PER_MG_CC",
    "IODINE_HU_PER_MG_CC",
    "Protocol",
    "ScannerProfile",
    "draw_protocol",
    "finish",
    "image",
    "load_profile",
    "metal_streaks",
    "move",
    "noise",
    "profile_names",
    "reimage",
]
