"""The fonts that signs are painted with, split so that no family is both learnt from and tested on.

Training fonts come from Debian packages (`TRAIN_PACKAGES`); held-out fonts come from PyPI packages (in the
group `dev` of pyproject.toml), so that a held-out scene can be made wherever pip works. `docs/training.md`
lists every family's licence.
"""

from __future__ import annotations

import functools
import importlib.resources
import importlib.util
import pathlib
from typing import Literal

from PIL import ImageFont

Split = Literal["train", "test"]

# Debian 12 packages; all are free software (OFL, Bitstream Vera, GUST, GPL + font exception, UFL).
_PACKAGES = """
fonts-adf-gillius fonts-adf-ikarius fonts-adf-libris fonts-adf-mekanus fonts-adf-solothurn fonts-adf-switzera
fonts-adf-tribun fonts-adf-universalis fonts-adf-verana fonts-agave fonts-anonymous-pro fonts-bebas-neue
fonts-beteckna fonts-cabin fonts-cantarell fonts-comfortaa fonts-crosextra-carlito fonts-dejavu-core
fonts-dejavu-extra fonts-dosis fonts-ebgaramond fonts-firacode fonts-freefont-ttf fonts-gemunu-libre
fonts-hack fonts-inconsolata fonts-inter fonts-jetbrains-mono fonts-junction fonts-jura fonts-karla fonts-lato
fonts-league-mono fonts-league-spartan fonts-liberation fonts-linuxlibertine fonts-mononoki fonts-mplus
fonts-noto-core fonts-open-sans fonts-oxygen fonts-paratype fonts-play fonts-quicksand fonts-sil-andika
fonts-sil-charis fonts-sil-doulos fonts-sil-gentiumplus fonts-urw-base35 fonts-vollkorn
fonts-yanone-kaffeesatz
"""
TRAIN_PACKAGES = tuple(_PACKAGES.split())

# PyPI module -> the faces used. Sign-like faces only; none of these families is in TRAIN_FACES.
TEST_FACES: dict[str, tuple[str, ...]] = {
    "font_caladea": ("Caladea-Regular.ttf", "Caladea-Bold.ttf"),
    "font_hanken_grotesk": (
        "HankenGrotesk-Regular.otf",
        "HankenGrotesk-Medium.otf",
        "HankenGrotesk-SemiBold.otf",
        "HankenGrotesk-Bold.otf",
    ),
    "font_manrope": (
        "Manrope-Regular.ttf",
        "Manrope-SemiBold.ttf",
        "Manrope-Bold.ttf",
        "Manrope-ExtraBold.ttf",
    ),
    "font_roboto": ("Roboto-Regular.ttf", "Roboto-Medium.ttf", "Roboto-Bold.ttf", "Roboto-Black.ttf"),
    "font_source_sans_pro": (
        "SourceSansPro-Regular.ttf",
        "SourceSansPro-Semibold.ttf",
        "SourceSansPro-Bold.ttf",
    ),
    "font_source_serif_pro": (
        "SourceSerifPro-Regular.ttf",
        "SourceSerifPro-Semibold.ttf",
        "SourceSerifPro-Bold.ttf",
    ),
}

# File names (without suffix) of the training faces, as the packages above install them under FONT_ROOT.
FONT_ROOT = pathlib.Path("/usr/share/fonts")
_FACES = """
agave-r-autohinted agave-b-autohinted Quicksand-Bold Quicksand-Medium Hack-Bold Hack-Regular CharisSIL-Regular
CharisSIL-Bold Lato-Medium Lato-Black Lato-Bold Lato-Regular Lato-Heavy LiberationMono-Bold
LiberationMono-Regular LiberationSerif-Regular LiberationSerif-Bold LiberationSansNarrow-Bold
LiberationSansNarrow-Regular LiberationSans-Bold LiberationSans-Regular Karla-Regular Karla-Bold
Karla-ExtraBold OpenSans-Regular OpenSans-CondBold OpenSans-ExtraBold OpenSans-Bold OpenSans-Semibold
Carlito-Bold Carlito-Regular FreeSans FreeSansBold FreeSerifBold FreeMonoBold DejaVuSerif DejaVuSerif-Bold
DejaVuSansMono DejaVuSansMono-Bold DejaVuSans DejaVuSans-Bold DejaVuSansCondensed DejaVuSansCondensed-Bold
DejaVuSerifCondensed-Bold Oxygen-Sans Oxygen-Sans-Bold DoulosSIL-Regular FiraCode-Regular FiraCode-Bold
Play-Bold Play-Regular PTF55F PTF75F PTS55F PTS75F PTN57F PTN77F PTM75F PTC75F Andika-Bold Andika-Regular
GentiumPlus-Bold GentiumBookPlus-Regular SwitzeraADF-Bold SwitzeraADF-Regular SwitzeraADF-ExtraBold
SwitzeraADF-BoldCond UniversalisADFStd-Regular UniversalisADFStd-Bold GilliusADF-Bold GilliusADF-Regular
GilliusADF-BoldCond LibrisADFStd-Regular LibrisADFStd-Bold VeranaSans-Regular VeranaSans-Bold
IkariusADFStd-Bold IkariusADFStd-Regular TribunADFStd-Bold TribunADFStd-Medium MekanusADFStd-Bold
Solothurn-Bold JetBrainsMono-Bold JetBrainsMono-Medium Vollkorn-Bold Vollkorn-SemiBold mononoki-Bold
mononoki-Regular Comfortaa-Bold Comfortaa-Regular BebasNeue-Regular BebasNeue-Bold LinLibertine_RB
LinLibertine_R LinBiolinum_R LinBiolinum_RB Junction Mplus1-Bold Mplus1-Medium Mplus2-Regular Mplus2-ExtraBold
Mplus1Code-Bold Jura-Bold Jura-SemiBold YanoneKaffeesatz-Bold YanoneKaffeesatz-Regular LeagueSpartan-Bold
LeagueSpartan-Medium LeagueSpartan-Black Cantarell-Regular Cantarell-Bold GemunuLibre-Bold GemunuLibre-Medium
LeagueMono-Bold LeagueMono-CondensedBold LeagueMono-Regular Inter-Regular Inter-Bold Inter-Medium Inter-Black
InterDisplay-SemiBold Dosis-Bold Dosis-SemiBold EBGaramond12-Bold NimbusSans-Bold NimbusSans-Regular
NimbusRoman-Bold NimbusRoman-Regular NimbusMonoPS-Bold NimbusSansNarrow-Bold C059-Bold C059-Roman
URWGothic-Demi URWGothic-Book URWBookman-Demi P052-Bold Cabin-Regular Cabin-Bold Cabin-SemiBold Inconsolata
NotoSans-Regular NotoSans-Bold NotoSerif-Bold NotoSerif-Regular NotoSansDisplay-Bold BetecknaGS-Bold
"""
TRAIN_FACES = tuple(_FACES.split())


class MissingFontsError(FileNotFoundError):
    """Font files that are not installed; the message names the command that installs them."""


@functools.cache
def font_files(split: Split) -> tuple[pathlib.Path, ...]:
    """Return the split's font files in a fixed order. Raises MissingFontsError."""
    return _test_files() if split == "test" else _train_files()


def _test_files() -> tuple[pathlib.Path, ...]:
    missing = sorted(module for module in TEST_FACES if importlib.util.find_spec(module) is None)
    if missing:
        packages = " ".join(module.replace("_", "-") for module in missing)
        raise MissingFontsError(f"pip install {packages}")
    return tuple(
        pathlib.Path(str(importlib.resources.files(module).joinpath("files", face)))
        for module, faces in TEST_FACES.items()
        for face in faces
    )


def _train_files() -> tuple[pathlib.Path, ...]:
    # sorted, for packages that install a face twice: opentype/ wins over truetype/ on every machine
    files = sorted(FONT_ROOT.rglob("*"), reverse=True)
    found = {path.stem: path for path in files if path.suffix in (".ttf", ".otf")}
    missing = [name for name in TRAIN_FACES if name not in found]
    if missing:
        packages = " ".join(TRAIN_PACKAGES)
        raise MissingFontsError(
            f"{len(missing)} training fonts are missing ({missing[0]}, ...): apt-get install {packages}"
        )
    return tuple(found[name] for name in TRAIN_FACES)


CAP_HEIGHTS_PX = (24, 48, 96, 192, 384)


@functools.lru_cache(maxsize=2048)
def face(path: pathlib.Path, cap_height_px: int) -> ImageFont.FreeTypeFont:
    """The face at the size at which its capital H is `cap_height_px` high (within a pixel)."""
    probe = ImageFont.truetype(str(path), 200)
    _, top, _, bottom = probe.getbbox("H")
    return ImageFont.truetype(str(path), 200 * cap_height_px / (bottom - top))
