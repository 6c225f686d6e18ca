"""Manifests of real scans: what is read, what stays unknown, and errors that name the file, the field and the value."""

import numpy as np
import pytest

from cacsnet.data.manifest import OTHER_CALCIUM, DatasetSettings, dataset_from, load_case, read_manifest
from cacsnet.errors import ArgumentError, ConfigError, TubeVoltageError
from cacsnet.io.write import write_nifti
from cacsnet.labels import IGNORE
from cacsnet.scan import Geometry

SHAPE, SPACING = (4, 16, 16), (3.0, 2.0, 2.0)
NAMES = {0: "background", 1: "RCA", 7: "LM", 8: "other", 9: "ignore"}


@pytest.fixture
def root(tmp_path):
    """Scans a and b with calcium maps, structure maps and a course map for a."""
    rng = np.random.default_rng(0)
    geometry = Geometry.axial(SHAPE, SPACING)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, 2, 3:8] = (1, 7, 8, 9, 0)
    for name in "ab":
        write_nifti(tmp_path / f"{name}.nii.gz", rng.integers(-1000, 600, SHAPE).astype(np.int16), geometry)
        write_nifti(tmp_path / f"{name}_labels.nii.gz", labels, geometry)
        write_nifti(tmp_path / f"{name}_structures.nii.gz", labels // 7, geometry)
    return tmp_path


def settings(root, text, **values):
    (root / "manifest.csv").write_text(text)
    return DatasetSettings(str(root), labels=NAMES, **values)


GOOD = "case_id,path,kvp,labels_path\na,a.nii.gz,120,a_labels.nii.gz\nb,b.nii.gz,100,b_labels.nii.gz\n"


def test_labels_become_ours(root):
    dataset = settings(root, GOOD)
    scan = load_case(read_manifest(dataset)[0], dataset)
    assert scan.calcium[1, 2, 3:8].tolist() == [4, 1, OTHER_CALCIUM, IGNORE, 0]
    assert int((scan.calcium > 0).sum()) == 4
    assert scan.hu.shape == SHAPE
    assert scan.geometry.spacing_mm == SPACING
    assert scan.structures is None
    assert scan.course is None


def test_the_threshold_follows_the_tube_voltage(root):
    dataset = settings(root, GOOD)
    assert [load_case(case, dataset).threshold_hu for case in read_manifest(dataset)] == [130, 145]


def test_an_empty_cell_is_unknown_and_not_zero(root):
    text = "case_id,path,kvp,labels_path\na,a.nii.gz,120,\nb,b.nii.gz,120,b_labels.nii.gz\n"
    dataset = settings(root, text, complete=True)
    missing, there = (load_case(case, dataset) for case in read_manifest(dataset))
    assert missing.calcium is None
    assert not missing.complete
    assert there.calcium is not None
    assert there.complete


def test_a_row_may_know_less_and_be_less_complete(root):
    text = (
        "case_id,path,kvp,labels_path,structures_path,known,complete\n"
        "a,a.nii.gz,120,a_labels.nii.gz,a_structures.nii.gz,structures,\n"
        "b,b.nii.gz,120,b_labels.nii.gz,b_structures.nii.gz,,no\n"
    )
    dataset = settings(root, text, known=("calcium", "structures"), complete=True)
    a, b = (load_case(case, dataset) for case in read_manifest(dataset))
    assert a.calcium is None
    assert a.structures is not None
    assert b.calcium is not None
    assert not b.complete


def test_everything_asks_for_all_columns(root):
    with pytest.raises(ConfigError, match="lacks a column") as error:
        read_manifest(settings(root, GOOD, known="everything"))
    assert error.value.value == "structures_path"
    assert str(root / "manifest.csv") in str(error.value)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("case_id,path\na,a.nii.gz\n", "column", "labels_path"),
        ("case_id,labels_path\na,a_labels.nii.gz\n", "column", "path"),
        ("case_id,path,labels_path\na,a.nii.gz,a_labels.nii.gz\na,b.nii.gz,b_labels.nii.gz\n", "case_id", ["a"]),
        ("case_id,path,labels_path\na,a.nii.gz,no.nii.gz\n", "labels_path", "no.nii.gz"),
        ("case_id,path,labels_path,complete\na,a.nii.gz,a_labels.nii.gz,perhaps\n", "complete", "perhaps"),
        ("case_id,path,labels_path,known\na,a.nii.gz,a_labels.nii.gz,calcum\n", "known", "calcum"),
        ("case_id,path,labels_path,kVp\na,a.nii.gz,a_labels.nii.gz,120\n", "column", "kVp"),
        ("case_id,path,labels_path,kvp\na,a.nii.gz,a_labels.nii.gz,loud\n", "kvp", "loud"),
    ],
)
def test_a_bad_manifest_is_refused(root, text, field, value):
    with pytest.raises(ConfigError) as error:
        read_manifest(settings(root, text))
    assert error.value.path == str(root / "manifest.csv")
    assert (error.value.field, error.value.value) == (field, value)


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ("a,no.nii.gz,a_labels.nii.gz", "path"),
        ("a,a.nii.gz,a_labels.nii.gz\nb,a.nii.gz,b_labels.nii.gz", "path"),
        ("a,a.nii.gz,a_labels.nii.gz\nb,b.nii.gz,a_labels.nii.gz", "labels_path"),
    ],
)
def test_missing_and_repeated_files_are_named(root, rows, field):
    with pytest.raises(ConfigError) as error:
        read_manifest(settings(root, "case_id,path,labels_path\n" + rows + "\n"))
    assert error.value.field == field
    assert error.value.value.endswith(".nii.gz")


def test_no_manifest(root):
    with pytest.raises(ConfigError, match="no such manifest"):
        read_manifest(DatasetSettings(str(root)))


def test_values_outside_the_map_are_named(root):
    dataset = DatasetSettings(settings(root, GOOD).root, labels={0: "background", 1: "RCA", 8: "other"})
    with pytest.raises(ArgumentError) as error:
        load_case(read_manifest(dataset)[0], dataset)
    assert error.value.value == [7, 9]
    assert error.value.path.endswith("a_labels.nii.gz")


@pytest.mark.parametrize(
    ("shape", "origin", "field"), [((4, 16, 15), (0, 0, 0), "shape"), (SHAPE, (0.0, 0.5, 0), "corner_offset_mm")]
)
def test_labels_on_another_grid_are_refused(root, shape, origin, field):
    write_nifti(root / "a_labels.nii.gz", np.zeros(shape, np.uint8), Geometry.axial(shape, SPACING, origin))
    dataset = settings(root, GOOD)
    with pytest.raises(ArgumentError) as error:
        load_case(read_manifest(dataset)[0], dataset)
    assert error.value.field == field
    assert error.value.path.endswith("a_labels.nii.gz")


def test_an_unknown_tube_voltage_is_refused_unless_assumed(root):
    text = "case_id,path,labels_path\na,a.nii.gz,a_labels.nii.gz\n"
    dataset = settings(root, text)
    with pytest.raises(TubeVoltageError, match=r"case a.*assumed_kvp") as error:
        load_case(read_manifest(dataset)[0], dataset)
    assert error.value.path.endswith("a.nii.gz")
    assumed = settings(root, text, assumed_kvp=100.0)
    assert load_case(read_manifest(assumed)[0], assumed).kvp == 100


def test_a_tube_voltage_without_thresholds_is_refused(root):
    dataset = settings(root, GOOD.replace("100", "110"))
    with pytest.raises(TubeVoltageError) as error:
        load_case(read_manifest(dataset)[1], dataset)
    assert error.value.value == 110


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"labels": {1: "LDA"}}, "labels"), ({"labels": {"one": "LAD"}}, "labels"), ({"labels": {True: "LAD"}}, "labels"),
        ({"structures": {1: "LAD"}}, "structures"),
        ({"known": ["lesions"]}, "known"), ({"known": []}, "known"), ({"complete": "yes"}, "complete"),
        ({"border_voxels": -1}, "border_voxels"), ({"root": None}, "data.root"), ({"lables": {}}, "data"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(tmp_path, values, field):
    with pytest.raises(ConfigError) as error:
        dataset_from({"root": str(tmp_path)} | values)
    assert error.value.field == field


def test_a_value_added_on_the_command_line_is_a_number(tmp_path):
    assert DatasetSettings(str(tmp_path), labels={0: "background", "9": "ignore"}).labels == {0: "background", 9: "ignore"}
