import polars as pl
import pytest
from table_cases import OPTIONS

from lossselect.data.load import load_own_data


@pytest.fixture
def load(tmp_path):
    """Writes columns to a file and loads it as splits."""

    def loaded(columns, task="multiclass", name="table", **options):
        of_task = task if isinstance(task, dict) else {"name": task}
        files = {
            "path": columns,
            **{key: options.pop(key) for key in ("val_path", "test_path") if key in options},
        }
        for key, content in files.items():
            frame = content if isinstance(content, pl.DataFrame) else pl.DataFrame(content)
            files[key] = str(tmp_path / f"{key}.csv")
            frame.write_csv(files[key])
        return load_own_data(name, task=of_task, **{**OPTIONS, "target": "y", **files, **options})

    return loaded
