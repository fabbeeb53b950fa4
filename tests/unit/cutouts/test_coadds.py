"""Stamps from brick coadds: both routes against astropy's own cuts, against the sky that was drawn, and on files gone wrong."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D, NoOverlapError, PartialOverlapError
from astropy.wcs import WCS
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lensdata.cutouts import tiled
from lensdata.cutouts.coadds import BrickStamps, coadd_uri, read_brick
from lensdata.cutouts.outcome import Rejected
from lensdata.cutouts.tiled import HEAD_BYTES, HeldBytes
from lensdata.simulation.bricks import QUANTUM, brick_header
from lensdata.simulation.sky import bricks_at, bricks_by_id

BRICK = bricks_at(150.0, 10.0)
NAME = str(BRICK.name[0])
SHAPE = (430, 370)  # not whole tiles
RICE = {"compression_type": "RICE_1", "quantize_level": -QUANTUM, "quantize_method": 2, "dither_seed": 77}
NO_DEADLINE = settings(deadline=None, max_examples=25)

Edit = Callable[[fits.Header], None]


def keep(header: fits.Header) -> None:
    """Change nothing."""


def coadd_bytes(image: np.ndarray, edit: Edit = keep, how: dict | None = None) -> bytes:
    """A coadd of any shape around the centre of the brick."""
    header = brick_header(BRICK, "g")
    header["CRPIX1"], header["CRPIX2"] = (image.shape[1] + 1) / 2, (image.shape[0] + 1) / 2
    edit(header)
    buffer = io.BytesIO()
    hdu = fits.CompImageHDU(image, header, tile_shape=(100, 100), **(how or RICE))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    return buffer.getvalue()


def sky_image(seed: int) -> np.ndarray:
    """Noise with a part without data and tiles that cannot be quantised, which are stored in another column."""
    image = np.random.default_rng(seed).normal(0, 0.01 * seed, SHAPE).astype(np.float32)
    image[150:260, 120:180] = 0
    image[100:200, 200:300] = 2.5
    image[300:, 300:] = np.random.default_rng(9).normal(0, 1e7, (130, 70))
    return image


class Reader:
    """Files in memory; remembers what was read."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked, self.threads = files, [], set()

    def __call__(self, uri: str, start: int, stop: int | None) -> bytes:
        if uri not in self.files:
            raise Rejected("no_such_file", permanent=True)
        assert stop is None or 0 <= start < stop
        self.asked.append((uri, start, stop))
        self.threads.add(threading.get_ident())
        return self.files[uri][start:stop]


def uri(kind: str, band: str = "") -> str:
    return coadd_uri("mem://dr10/", NAME, kind, band)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    random = np.random.default_rng(5)
    out = Files({uri("image", band): coadd_bytes(sky_image(seed)) for seed, band in enumerate("grz", 1)})
    for band in "grz":
        invvar = random.uniform(1e3, 2e3, SHAPE).astype(np.float32)
        invvar[150:260, 120:180] = 0
        how = {"compression_type": "RICE_1", "quantize_level": 16, "quantize_method": -1}
        out[uri("invvar", band)] = coadd_bytes(invvar, how=how)
    bits = (random.random(SHAPE) < 0.1).astype(np.int32) << random.integers(0, 17, SHAPE).astype(np.int32)
    out[uri("maskbits")] = coadd_bytes(bits, how={"compression_type": "HCOMPRESS_1", "hcomp_scale": 0})
    return out


class Files(dict):
    """Files by address; hypothesis prints arguments, and these are long."""

    def __repr__(self) -> str:
        return "files"


@cache
def opened(content: bytes) -> tuple[np.ndarray, WCS]:
    with fits.open(io.BytesIO(content)) as hdus:
        return np.array(hdus[1].data), WCS(hdus[1].header)


def sky(x: np.ndarray, y: np.ndarray, content: bytes) -> np.ndarray:
    """Positions (ra, dec) of pixels; shape (2, n)."""
    return opened(content)[1].wcs_pix2world(np.column_stack([x, y]), 0).T


def read(reader: Callable, x, y, bands: str = "grz", size: int = 101, *, whole: bool, **more) -> BrickStamps:
    files = reader.files
    place = sky(np.atleast_1d(x), np.atleast_1d(y), next(iter(files.values())))
    return read_brick(reader, "mem://dr10", NAME, *place, bands, size, whole=whole, **more)


def assert_same(one: BrickStamps, other: BrickStamps) -> None:
    assert one.reasons == other.reasons
    for name in ("stamps", "offsets", "invvar", "maskbits"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.tobytes() == b.tobytes(), name


@NO_DEADLINE
@given(
    positions=st.lists(st.tuples(st.floats(-30, 400), st.floats(-30, 460)), min_size=1, max_size=4),
    size=st.integers(8, 128),
    bands=st.sampled_from(["grz", "zg", "r"]),
    whole=st.booleans(),
)
def test_stamps_are_the_cuts_that_astropy_makes_of_the_same_file(files, positions, size, bands, whole):
    x, y = np.array(positions).T
    assume(np.all(np.abs(np.column_stack([x, y]) % 1 - 0.5) > 1e-6))  # which pixel is nearest is clear
    found = read(Reader(files), x, y, bands, size, whole=whole)
    assert found.stamps.shape == (len(x), size, size, len(bands))
    assert found.stamps.dtype == np.dtype("=f4")
    for k, band in enumerate(bands):
        image, wcs = opened(files[uri("image", band)])
        for n, (ra, dec) in enumerate(zip(*sky(x, y, files[uri("image", band)]), strict=True)):
            place = SkyCoord(ra, dec, unit="deg", frame="fk5").to_pixel(
                wcs
            )  # what a file without RADESYS is by default
            nearest = tuple(float(np.floor(v + 0.5)) for v in place)
            corner = (nearest[0] - size // 2 + (size - 1) / 2, nearest[1] - size // 2 + (size - 1) / 2)
            try:
                expected = Cutout2D(image, corner, size, mode="strict").data
            except (PartialOverlapError, NoOverlapError):
                assert found.reasons[n] == "brick_edge"
                assert not found.stamps[n].any()
                assert np.isnan(found.offsets[n]).all()
                continue
            assert found.reasons[n] is None
            np.testing.assert_array_equal(found.stamps[n, :, :, k], expected)
            np.testing.assert_allclose(found.offsets[n], np.subtract(place, nearest), atol=1e-6)
            assert np.abs(found.offsets[n]).max() <= 0.5


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 20))
def test_whole_files_and_ranges_give_the_same_bytes(files, seed, n):
    x, y = np.random.default_rng(seed).uniform([[0], [0]], [[370], [430]], (2, n))
    extras = ("invvar", "maskbits")
    one, other = (read(Reader(files), x, y, whole=whole, extras=extras) for whole in (True, False))
    assert_same(one, other)
    assert one.invvar.shape == one.stamps.shape
    assert (one.maskbits.shape, one.maskbits.dtype) == (one.stamps.shape[:3], np.int32)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 60), tiles=st.integers(1, 40))
def test_shared_sections_hold_every_stamp_and_cost_no_more_than_one_each(seed, n, tiles):
    random = np.random.default_rng(seed)
    first = random.integers(0, tiles, (n, 2))
    boxes = np.concatenate([first, first + random.integers(1, 4, (n, 2))], axis=1)
    sections, owners = tiled._sections(boxes)
    assert np.all(sections[owners][:, :2] <= boxes[:, :2])
    assert np.all(sections[owners][:, 2:] >= boxes[:, 2:])
    assert set(owners.tolist()) == set(range(len(sections)))
    assert tiled._cost(sections).sum() <= tiled._cost(boxes).sum()


def test_stamps_from_shared_sections_are_those_cut_alone():
    shape = (1000, 950)
    content = coadd_bytes(np.random.default_rng(8).normal(0, 0.02, shape).astype(np.float32))
    image, size = tiled.TiledImage(content), 60
    corners = np.array([[0, 0], [40, 10], [930, 885], [500, 300], [55, 30], [940, 890]])
    first = corners // 100
    assert len(tiled._sections(np.concatenate([first, (corners + size - 1) // 100 + 1], axis=1))[0]) == 3
    found = dict(image.cuts(corners, size))
    assert sorted(found) == list(range(len(corners)))
    for place, (y, x) in enumerate(corners):
        np.testing.assert_array_equal(found[place], opened(content)[0][y : y + size, x : x + size])


@pytest.mark.parametrize("whole", [True, False])
def test_pixels_without_data_stay_exact_zeros(files, whole):
    found = read(Reader(files), 150, 205, "gr", 50, whole=whole, extras=("invvar",))
    assert not found.stamps[0, :, :55].any()  # columns 125 to 174 of 120 to 179
    assert not found.invvar[0, :, :55].any()
    beside = read(Reader(files), 200, 205, "gr", 50, whole=whole)
    assert (beside.stamps[0, :, 5:] != 0).all()


@pytest.mark.parametrize("whole", [True, False])
def test_tiles_that_could_not_be_quantised_are_found_in_their_own_column(files, whole):
    found = read(Reader(files), 334, 350, "g", 50, whole=whole)
    np.testing.assert_array_equal(found.stamps[0, :, :, 0], sky_image(1)[325:375, 309:359])


def test_maskbits_come_back_bit_for_bit(files):
    found = read(Reader(files), 200, 200, whole=False, extras=("maskbits",))
    image, _ = opened(files[uri("maskbits")])
    np.testing.assert_array_equal(found.maskbits[0], image[150:251, 150:251])
    assert found.invvar is None


def test_ranges_are_one_head_and_the_needed_tiles_once(files):
    reader = Reader(files)
    read(reader, [60, 60.3, 305], [340, 342, 345], "z", whole=False)
    (_, start, stop), *ranges = reader.asked
    assert (start, stop) == (0, HEAD_BYTES)
    got = [byte for _, start, stop in ranges for byte in range(start, stop)]
    assert len(got) == len(set(got))
    assert min(got) >= HEAD_BYTES
    with fits.open(io.BytesIO(files[uri("image", "z")]), disable_image_compression=True) as hdus:
        columns = [hdus[1].data[name] for name in hdus[1].columns.names if name.endswith("COMPRESSED_DATA")]
        touched = [4 * y + x for y in (2, 3) for x in (0, 1, 2, 3)]  # by x 10-110 and 255-355, y 290-395
        num_needed = sum(len(column[tile]) for column in columns for tile in touched)
    assert num_needed - HEAD_BYTES < len(got) <= num_needed + tiled.BRIDGED_BYTES * len(ranges)


def test_tiles_that_came_with_the_head_are_not_read_again(files):
    reader = Reader(files)
    found = read(reader, [60, 150], [60, 60], "g", whole=False)
    assert [start for _, start, _ in reader.asked[:2]] == [0, HEAD_BYTES]
    assert_same(found, read(Reader(files), [60, 150], [60, 60], "g", whole=True))


def test_stamps_in_the_corners_of_the_image_are_whole(files):
    x, y = [50, SHAPE[1] - 51, 49, SHAPE[1] - 50], [50, SHAPE[0] - 51, 50, SHAPE[0] - 51]
    found = read(Reader(files), x, y, whole=True)
    assert found.reasons == [None, None, "brick_edge", "brick_edge"]


def test_a_stamp_reads_a_hundredth_of_a_brick_and_a_whole_brick_is_one_request(tmp_path):
    image = np.random.default_rng(0).normal(0, 0.01, (2000, 2000)).astype(np.float32)
    content = coadd_bytes(image)
    reader = Reader({uri("image", "g"): content})
    read(reader, 900, 1100, "g", whole=False)
    assert len(reader.asked) == 3  # the head, two rows of two tiles
    assert sum(stop - start for _, start, stop in reader.asked) < HEAD_BYTES + 5 * len(content) / 400
    reader.asked.clear()
    read(reader, 900, 1100, "g", whole=True)
    assert reader.asked == [(uri("image", "g"), 0, None)]


def test_headers_longer_than_the_head_cost_one_more_request(files):
    def lengthen(header: fits.Header) -> None:
        for k in range(900):
            header[f"LONG{k}"] = "x" * 60

    content = coadd_bytes(sky_image(1), lengthen)
    reader = Reader({uri("image", "g"): content})
    found = read(reader, 180, 210, "g", whole=False)
    assert [asked[1:] for asked in reader.asked[:2]] == [(0, HEAD_BYTES), (HEAD_BYTES, 2 * HEAD_BYTES)]
    assert_same(found, read(Reader(files), 180, 210, "g", whole=True))


def test_threads_change_nothing(files):
    alone, together = Reader(files), Reader(files)
    x, y = np.random.default_rng(3).uniform(60, 300, (2, 12))
    with ThreadPoolExecutor(4) as threads:
        for whole in (True, False):
            more = {"whole": whole, "extras": ("invvar", "maskbits")}
            assert_same(read(alone, x, y, **more), read(together, x, y, threads=threads, **more))
    assert sorted(map(str, alone.asked)) == sorted(map(str, together.asked))
    assert threading.get_ident() not in together.threads


@pytest.mark.parametrize("whole", [True, False])
def test_a_missing_file_is_a_reason_of_all_stamps_of_the_brick(files, whole):
    without = {key: value for key, value in files.items() if key not in (uri("image", "r"), uri("maskbits"))}
    found = read(Reader(without), [200, 210, 5], [200, 210, 5], whole=whole, extras=("invvar",))
    assert found.reasons == ["no_coadd_r"] * 3
    assert found.stamps.shape == found.invvar.shape == (3, 101, 101, 3)
    assert not found.stamps.any()
    found = read(Reader(without), 200, 200, "gz", whole=whole, extras=("maskbits",))
    assert found.reasons == ["no_maskbits"]
    assert read(Reader(without), 200, 200, "gz", whole=whole).reasons == [None]


@pytest.mark.parametrize("whole", [True, False])
def test_other_failures_to_read_are_passed_on(files, whole):
    def read_nothing(uri: str, start: int, stop: int | None) -> bytes:
        raise Rejected("http_503", permanent=False)

    with pytest.raises(Rejected, match="http_503"):
        read_brick(read_nothing, "mem://dr10", NAME, 150.0, 10.0, "g", 101, whole=whole)


def test_survey_and_version_are_those_of_the_header(files):
    found = read(Reader(files), 200, 200, whole=False)
    assert (found.survey, found.version) == ("DECaLS", "10000")

    def rename(header: fits.Header) -> None:
        header.rename_keyword("DRVERSIO", "VERSION")

    renamed = Reader({uri("image", "g"): coadd_bytes(sky_image(1), rename)})
    assert read(renamed, 200, 200, "g", whole=True).version == "10000"


@pytest.mark.parametrize("whole", [True, False])
def test_a_position_on_the_other_side_of_the_sky_is_off_the_brick(files, whole):
    found = read_brick(Reader(files), "mem://dr10", NAME, [330.0, 150.0], [-10.0, 89.0], "g", 101, whole=whole)
    assert found.reasons == ["brick_edge"] * 2


def change(**words: object) -> Edit:
    return lambda header: header.update(words)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("reason", "edit"),
    [
        ("wrong_brick_1499p102", change(BRICKNAM="1499p102")),
        ("wrong_brick_None", lambda header: header.remove("BRICKNAM")),
        ("wrong_projection", change(CTYPE1="RA---SIN", CTYPE2="DEC--SIN")),
        ("wrong_pixel_scale", change(CD1_1=-0.263 / 3600, CD2_2=0.263 / 3600)),
        ("wrong_pixel_scale", change(CD2_2=-0.262 / 3600)),  # north down
        ("wrong_grid", change(CRVAL1=150.001)),
        ("wrong_grid", change(CRPIX2=215.0)),
    ],
)
def test_a_file_of_another_brick_or_grid_is_not_believed(files, reason, edit, whole):
    changed = files | {uri("image", "z"): coadd_bytes(sky_image(3), edit)}
    with pytest.raises(Rejected) as caught:
        read(Reader(changed), 200, 200, whole=whole)
    assert (caught.value.reason, caught.value.permanent) == (reason, True)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("body", [b"", b"no such layer", b"<html>" + b" " * 90_000])
def test_an_answer_that_is_no_fits_file_is_not_believed(files, body, whole):
    with pytest.raises(Rejected) as caught:
        read_brick(Reader({uri("image", "g"): body}), "mem://dr10", NAME, 150.0, 10.0, "g", 101, whole=whole)
    assert (caught.value.reason, caught.value.permanent) == ("not_fits", False)


@NO_DEADLINE
@given(kept=st.floats(0, 0.995), whole=st.booleans())
def test_a_truncated_file_is_rejected_or_what_is_needed_was_there(files, kept, whole):
    content = files[uri("image", "g")]
    cut = max(6, int(kept * len(content)))
    place = sky([200], [200], content)
    arguments = ("mem://dr10", NAME, *place, "g", 101)
    found = attempt(Reader({uri("image", "g"): content[:cut]}), *arguments, whole=whole)
    if isinstance(found, Rejected):
        assert (found.reason, found.permanent) == ("truncated", False)
    else:
        assert not whole
        assert_same(found, read_brick(Reader(files), *arguments, whole=True))


def attempt(*arguments, **more) -> BrickStamps | Rejected:
    """The stamps, or why not; any other exception is an error."""
    try:
        return read_brick(*arguments, **more)
    except Rejected as error:
        return error


@pytest.mark.filterwarnings("ignore")  # astropy's, about the damage
@settings(deadline=None, max_examples=60)
@given(
    where=st.one_of(st.integers(6, 24_000), st.integers(-60_000, -6000)),  # headers and index; tiles stored with gzip
    values=st.binary(min_size=1, max_size=12),
    whole=st.booleans(),
)
def test_damage_never_raises_anything_but_rejected(files, where, values, whole):
    content = bytearray(files[uri("image", "g")])
    content[where : where + len(values)] = values
    place = sky([200, 334], [200, 350], files[uri("image", "g")])
    found = attempt(Reader({uri("image", "g"): bytes(content)}), "mem://dr10", NAME, *place, "g", 101, whole=whole)
    assert isinstance(found, BrickStamps) or found.reason


@given(st.data())
def test_held_bytes_read_like_a_file_where_they_are_held(data):
    content = bytes(range(256))
    cuts = sorted(data.draw(st.sets(st.integers(0, 256), min_size=2, max_size=8)))
    pieces = [pair for pair in pairwise(cuts) if data.draw(st.booleans())]
    held, plain = HeldBytes(256), io.BytesIO(content)
    for start, stop in data.draw(st.permutations(pieces)):
        held.hold(start, content[start:stop])
    start, count = data.draw(st.integers(0, 260)), data.draw(st.integers(0, 40))
    wanted = set(range(start, min(start + count, 256)))
    plain.seek(start)
    assert held.seek(start) == start
    if wanted <= {byte for first, stop in pieces for byte in range(first, stop)}:
        assert held.read(count) == plain.read(count)
        assert held.tell() == plain.tell()
    else:
        with pytest.raises(Rejected, match="byte_not_held"):
            held.read(count)
    assert held.seek(0, io.SEEK_END) == 256


class TestAgainstTheSimulatedSky:
    """A window of a brick that the simulation draws, written as a file of its own with the brick's projection."""

    @pytest.fixture(scope="class")
    def drawn(self):
        from lensdata.config.simulation import MockSurveyConfig
        from lensdata.simulation.catalogue import LensList
        from lensdata.simulation.rendering import Renderer
        from lensdata.simulation.survey import make_survey

        config = MockSurveyConfig()
        lens = LensList(np.array(["DESI-one"]), np.array([20.0]), np.array([-5.0]))
        renderer = Renderer(make_survey(config, lens))
        row = int(np.flatnonzero(renderer.survey.sources["origin"] == "host")[0])
        return renderer, row

    def test_stamps_are_the_pixels_drawn_to_one_quantum_and_centred_on_the_object(self, drawn):
        from lensdata.simulation.sky import brick_pixels

        renderer, row = drawn
        source = {name: renderer.survey.sources[name][row] for name in ("ra", "dec", "brickid")}
        brick = bricks_by_id([int(source["brickid"])])
        x, y = (float(v) for v in brick_pixels(source["ra"], source["dec"], float(brick.ra[0]), float(brick.dec[0])))
        y0, x0 = max(int(y) - 170, 0), max(int(x) - 130, 0)
        name, files = str(brick.name[0]), {}
        for band in "grz":
            image = renderer.render_window(int(source["brickid"]), y0, x0, 350, 350, band)[0]
            header = brick_header(brick, band)
            header["CRPIX1"], header["CRPIX2"] = header["CRPIX1"] - x0, header["CRPIX2"] - y0
            buffer = io.BytesIO()
            fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image, header, tile_shape=(100, 100), **RICE)]).writeto(
                buffer
            )
            files[coadd_uri("mem://dr10", name, "image", band)] = buffer.getvalue()
        found = read_brick(Reader(files), "mem://dr10", name, source["ra"], source["dec"], "grz", 101, whole=False)
        assert found.reasons == [None]
        column, line = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        np.testing.assert_allclose(found.offsets[0], [x - column, y - line], atol=1e-5)
        window = renderer.render_window(int(source["brickid"]), line - 50, column - 50, 101, 101, "grz")
        drawn_stamp = np.moveaxis(window, 0, -1)
        # subtractive dithering errs by half a step; float32 adds its rounding where a galaxy is bright
        error = np.abs(found.stamps[0] - drawn_stamp) - np.abs(drawn_stamp) * np.finfo(np.float32).eps
        assert error.max() <= QUANTUM * 0.501
        # the object is where the offset says: centre of light of its core in r
        core = found.stamps[0, 45:56, 45:56, 1].astype(float)
        grid = np.arange(-5, 6)
        centre = [(core.sum(axis) * grid).sum() / core.sum() for axis in (0, 1)]
        np.testing.assert_allclose(centre, found.offsets[0], atol=0.35)
