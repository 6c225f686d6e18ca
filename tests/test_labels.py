from cacsnet.labels import STRUCTURE_INDEX, STRUCTURES, VENTRICLES, VESSEL_INDEX, VESSEL_NAMES, VESSELS


def test_tables_are_those_of_the_design():
    assert [label.name for label in VESSELS] == ["background", "LM", "LAD", "LCX", "RCA"]
    assert [label.name for label in STRUCTURES] == [
        *("background", "left_ventricle", "right_ventricle", "left_atrium", "right_atrium", "myocardium", "aorta"),
        "pulmonary_artery",
    ]
    for table in (VESSELS, STRUCTURES):
        assert [label.index for label in table] == list(range(len(table)))


def test_colours_and_codes_tell_labels_apart():
    for table in (VESSELS, STRUCTURES):
        assert len({label.colour for label in table}) == len(table)
        assert all(0 <= channel <= 255 for label in table for channel in label.colour)
    coded = [*VESSELS[1:], *STRUCTURES[1:]]
    assert len({label.snomed_code for label in coded}) == len(coded)
    assert all(label.snomed_code.isdigit() and label.meaning for label in coded)


def test_derived_names():
    assert VESSEL_NAMES == ("LM", "LAD", "LCX", "RCA")
    assert VESSEL_INDEX["RCA"] == 4
    assert {STRUCTURES[i].name for i in VENTRICLES} == {"left_ventricle", "right_ventricle", "myocardium"}
    assert STRUCTURE_INDEX["aorta"] == 6
