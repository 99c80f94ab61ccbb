"""`classes.json` says what the values of masks mean."""

import pytest

from densenet_suite.errors import ConfigError, DataError
from densenet_suite.segmentation.class_file import FILE_NAME, ClassFile, read_class_file


def test_what_is_written_is_read(tmp_path):
    assert read_class_file(tmp_path, multilabel=False) is None
    for content in (
        ClassFile({"background": 0, "cell": [1, 255]}, [7]),
        ClassFile({"wasser ü": "#0000FF"}, ["#FFFFFF"]),
    ):
        content.write(tmp_path)
        assert read_class_file(tmp_path, multilabel=False) == content


def test_a_config_that_says_otherwise_of_overlaps_is_told_so(tmp_path):
    ClassFile({"cell": 1}, multilabel=True).write(tmp_path)
    with pytest.raises(ConfigError, match="says that classes may overlap") as caught:
        read_class_file(tmp_path, multilabel=False)
    assert caught.value.problems[0].hint == "data.multilabel=true"


@pytest.mark.parametrize(
    "text",
    ["[]", "7", "{}", '{"classes": []}', '{"classes": {"a": 1.5}}', '{"classes": {"a": true}}',
     '{"classes": {"a": 1}, "ignore": 7}', '{"classes": {"a": 1}, "multilabel": "yes"}'],
)  # fmt: skip
def test_what_holds_no_classes_is_refused(tmp_path, text):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(DataError, match="file does not hold classes with their values") as caught:
        read_class_file(tmp_path, multilabel=False)
    assert str(tmp_path / FILE_NAME) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path, text):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(DataError, match="file cannot be read"):
        read_class_file(tmp_path, multilabel=False)
