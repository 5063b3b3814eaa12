"""The steps of the demo that go wrong; tests/integration/test_wheel.py goes the whole way."""


def test_a_failing_step_is_named_with_its_log(tmp_path, script):
    """A library that cannot be imported: training fails, and the demo says where to read why."""
    broken = tmp_path / "broken" / "timm"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('this timm is broken')")
    result = script("run_demo", "--work", tmp_path / "demo", check=False, PYTHONPATH=str(broken.parent))
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: step train failed: RuntimeError: this timm is broken")
    assert last.endswith(f"log: {tmp_path / 'demo' / 'logs' / 'train.log'}")
    assert '"accuracy"' not in result.stdout


def test_a_folder_of_somebody_else_is_not_emptied(tmp_path, script):
    (tmp_path / "thesis.tex").write_text("years of work")
    result = script("run_demo", "--work", tmp_path, check=False)
    assert result.returncode == 1
    assert "not a demo's folder" in result.stderr
    assert (tmp_path / "thesis.tex").exists()
