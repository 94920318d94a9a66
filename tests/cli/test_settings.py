"""`comfyk settings`: what is set, and changing it in the file."""

from __future__ import annotations

from pathlib import Path


def test_a_setting_is_written_and_taken_out_again(comfyk, tmp_path: Path) -> None:
    file = tmp_path / "comfyk.toml"
    file.write_text("# ours\n[jobs]\nmax_attempts = 3  # patience\n")
    done = comfyk("settings", "set", "jobs.max_attempts", "5")
    assert done.returncode == 0 and "jobs.max_attempts is 5" in done.stdout and str(file) in done.stdout
    assert comfyk("settings", "set", "plugins.disabled", "frontend,core-nodes").returncode == 0
    assert file.read_text().startswith("# ours\n[jobs]\nmax_attempts = 5  # patience\n")
    shown = comfyk("settings", "show").stdout
    assert "max_attempts = 5  # " in shown and 'disabled = ["frontend", "core-nodes"]' in shown
    assert comfyk("settings", "unset", "jobs.max_attempts").returncode == 0
    assert "max_attempts" not in file.read_text()


def test_what_cannot_be_set_is_refused_with_the_reason(comfyk, environment, tmp_path: Path) -> None:
    for key, value, said in (
        ("jobs.max_attempts", "never", "jobs.max_attempts: 'never'"),
        ("jobs.attempts", "1", "did you mean"),
        ("job.max_attempts", "1", "did you mean 'jobs'?"),
    ):
        done = comfyk("settings", "set", key, value)
        assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
    environment["COMFYK_JOBS__MAX_ATTEMPTS"] = "4"
    done = comfyk("settings", "set", "jobs.max_attempts", "5")
    assert done.returncode == 1 and "COMFYK_JOBS__MAX_ATTEMPTS sets it" in done.stderr
    assert not (tmp_path / "comfyk.toml").exists()
