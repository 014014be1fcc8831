import polars as pl
import pytest
from table_cases import OPTIONS

from lossselect.data.files.load import load_own_data


@pytest.fixture
def load(tmp_path):
    """Return a function that writes columns to a file and loads it as splits."""

    def load_columns(columns, task="multiclass", name="table", **options):
        task_settings = task if isinstance(task, dict) else {"name": task}
        files = {
            "path": columns,
            **{key: options.pop(key) for key in ("val_path", "test_path") if key in options},
        }
        for key, content in files.items():
            frame = content if isinstance(content, pl.DataFrame) else pl.DataFrame(content)
            files[key] = str(tmp_path / f"{key}.csv")
            frame.write_csv(files[key])
        return load_own_data(name, task=task_settings, **{**OPTIONS, "target": "y", **files, **options})

    return load_columns
