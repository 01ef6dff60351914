"""The command line as a person types it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests import toys

ROOT = Path(__file__).parents[2]


def millrace(
    *words: str, cwd: Path, path: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    folders = [str(Path(toys.__file__).parents[1]), *([str(path)] if path else [])]
    return subprocess.run(
        [sys.executable, "-m", "millrace", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders), "COLUMNS": "200", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my_config" / "pipeline"
    folder.mkdir(parents=True)
    (folder / "play.yaml").write_text("# @package _global_\npipeline: {name: play, function: 'tests.toys:play'}\n")
    return tmp_path


def play(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return millrace("run", "--config-dir", "my_config", "pipeline=play", *words, cwd=project)


class TestRun:
    def test_runs_a_pipeline_of_the_users_own(self, project: Path) -> None:
        answer = play(project)
        assert answer.returncode == 0, answer.stderr
        assert re.search(r"^report: .*report\.html$", answer.stdout, re.MULTILINE)
        assert "play: succeeded in" in answer.stdout
        assert "write.length" in answer.stdout

    def test_counts_are_shown_in_full(self, project: Path) -> None:
        answer = play(project, f"write.text={'word ' * 12_345}")
        assert "length 12345" in answer.stdout

    def test_imports_modules_beside_the_config_directory_from_anywhere(self, project: Path, tmp_path: Path) -> None:
        (project / "beside.py").write_text("from tests.toys import play\n")
        (project / "my_config" / "pipeline" / "own.yaml").write_text(
            "# @package _global_\npipeline: {name: own, function: 'beside:play'}\n"
        )
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        answer = millrace("run", "--config-dir", str(project / "my_config"), "pipeline=own", cwd=elsewhere)
        assert answer.returncode == 0, answer.stderr

    def test_files_in_the_current_folder_shadow_nothing(self, project: Path) -> None:
        for name in ("queue", "numpy", "pydantic"):
            (project / f"{name}.py").write_text(f"raise RuntimeError('the wrong {name}')\n")
        command = Path(sys.executable).with_name("millrace")  # `python -m` would itself look here first
        words = [str(command), "run", "--config-dir", "my_config", "pipeline=play"]
        environment = {**os.environ, "PYTHONPATH": str(Path(toys.__file__).parents[1])}
        answer = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stdout + answer.stderr

    def test_refuses_the_name_of_a_task_for_the_pipeline(self, project: Path) -> None:
        answer = play(project, "pipeline.name=write")
        assert answer.returncode == 2
        assert "pipeline and task are both called 'write'" in answer.stderr

    def test_overrides_any_key_of_the_model(self, project: Path) -> None:
        answer = play(project, "least=0.9")
        assert "judge.score >= 0.9 does not hold" in answer.stdout

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("work.secnods=1", "work.secnods: unknown key: did you mean 'seconds'? allowed: behaviour, journal"),
            ("wrok.seconds=1", "wrok: unknown key: did you mean 'work'? allowed: again, judge, least"),
            ("work.seconds=-1", "work.seconds: Input should be greater than or equal to 0 (given: -1)"),
            ("work.behaviour=badly", "work.behaviour: Input should be 'well', 'user'"),
            ("runner.coers=3", "runner.coers: unknown key: did you mean 'cores'?"),
            ("modell=mlp", "modell: unknown key: did you mean 'model'? allowed: again, judge, least, model, pipeline"),
            ("work.seconds=???", "work.seconds: a value is required\n"),
            ("work.seconds=${write.txt}", "work.seconds: Interpolation key 'write.txt' not found\n"),
            (
                "work.seconds=1,2",
                "work.seconds=1,2: several values: a run for each of them needs --multirun; one list is",
            ),
            (
                "seconds=1",
                "seconds: unknown key: did you mean 'again.seconds' or 'work.seconds'? here are allowed: again",
            ),
            ("judge.seconds=1", "judge.seconds: unknown key: did you mean 'again.seconds' or 'work.seconds'? here are"),
            ("cores=1", "cores: unknown key: did you mean 'runner.cores'? here are allowed: again"),
            ("runner.cores=0", "runner.cores: Input should be greater than or equal to 1 (given: 0)"),
        ],
    )
    def test_explains_a_wrong_override(self, project: Path, override: str, message: str) -> None:
        answer = play(project, override)
        assert answer.returncode == 2
        assert f"error: {message}" in answer.stderr
        assert "Traceback" not in answer.stderr

    def test_explains_an_unknown_pipeline(self, project: Path) -> None:
        answer = millrace("run", "pipeline=digitz", cwd=project)
        assert answer.returncode == 2
        assert (
            "error: pipeline=digitz: there is none of that name: did you mean 'digits'? allowed: digits"
            in answer.stderr
        )
        assert "Traceback" not in answer.stderr

    def test_of_one_pipeline_does_not_need_the_others(self, project: Path) -> None:
        package = project / "site" / "extra-1.0.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text("[millrace.pipelines]\nbroken = nowhere:broken\n")
        (project / "my_config" / "pipeline" / "broken.yaml").write_text(
            "# @package _global_\ndefaults: [/defaults@_global_: broken]\npipeline: {name: broken, function: broken}\n"
        )
        words = ("run", "--config-dir", "my_config", "--cfg", "job")
        assert millrace(*words, "pipeline=play", cwd=project, path=project / "site").returncode == 0
        answer = millrace(*words, "pipeline=broken", cwd=project, path=project / "site")
        assert answer.returncode == 2
        assert "pipeline 'broken': there is no nowhere:broken" in answer.stderr

    def test_explains_an_override_that_can_not_be_parsed(self, project: Path) -> None:
        answer = play(project, "work.seconds=[1")
        assert answer.returncode == 2
        assert "work.seconds=[1 can't be read" in answer.stderr
        assert "needs quotes of its own" in answer.stderr

    @pytest.mark.parametrize("text", ["/Bilder/Blüten (2024) & more!", "it's 日本 #1", "a\\'b=c\\"])
    def test_takes_any_characters_in_a_value(self, project: Path, text: str) -> None:
        answer = play(project, f"write.text={text}", "--cfg", "job")
        assert answer.returncode == 0, answer.stderr
        assert OmegaConf.select(OmegaConf.create(answer.stdout), "write.text") == text
        assert "Traceback" not in answer.stderr

    @pytest.mark.parametrize(("behaviour", "code"), [("user", 2), ("crash", 1)])
    def test_tells_a_mistake_from_a_failure_by_the_exit_code(self, project: Path, behaviour: str, code: int) -> None:
        answer = play(project, f"work.behaviour={behaviour}")
        assert answer.returncode == code
        assert answer.stdout.count("work failed: ") == 1
        assert ("tobe" if behaviour == "user" else "boom") in answer.stdout

    def test_explains_a_root_that_is_no_folder(self, project: Path) -> None:
        (project / "file").touch()
        answer = millrace("run", "--config-dir", "my_config", "pipeline=play", "runner.root=file", cwd=project)
        assert answer.returncode == 2
        assert "runner.root=file can't be used" in answer.stderr
        assert "Traceback" not in answer.stderr

    def test_shows_the_whole_configuration(self, project: Path) -> None:
        answer = millrace("run", "pipeline=digits", "--cfg", "job", cwd=project)
        assert answer.returncode == 0, answer.stderr
        assert "epochs:" in answer.stdout
        assert "cores: null" in answer.stdout

    def test_shows_hydras_information(self, project: Path) -> None:
        answer = millrace("run", "--info", "defaults", cwd=project)
        assert answer.returncode == 0, answer.stderr
        assert "pipeline/digits" in answer.stdout

    def test_runs_each_combination(self, project: Path) -> None:
        answer = play(project, "--multirun", "judge.score=0.1,0.7")
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.count("play: succeeded in") == 2
        assert len(list((project / ".millrace" / "runs").iterdir())) == 2
        assert sorted(item.name for item in project.iterdir()) == [".millrace", "my_config"]

    def test_of_several_combinations_the_worst_decides(self, project: Path) -> None:
        answer = play(project, "--multirun", "work.behaviour=well,crash")
        assert answer.returncode == 1

    def test_one_mode_at_a_time(self, project: Path) -> None:
        answer = play(project, "--multirun", "--cfg", "job", "judge.score=0.1,0.7")
        assert answer.returncode == 2
        assert "error: --multirun and --cfg exclude each other" in answer.stderr

    def test_takes_a_main_configuration_of_the_users_own(self, project: Path) -> None:
        (project / "my_config" / "mine.yaml").write_text("defaults: [config, _self_]\nleast: 0.3\n")
        answer = play(project, "--config-name", "mine", "--cfg", "job")
        assert re.search(r"^least: 0\.3$", answer.stdout, re.MULTILINE), answer.stderr

    def test_begins_only_when_all_is_well(self, project: Path) -> None:
        words = ("run", "pipeline=image_classification", "manifest.source=/nowhere")
        answer = millrace(*words, cwd=project)
        assert answer.returncode == 2
        assert "error: manifest.source=/nowhere: there is nothing at /nowhere\n" in answer.stderr
        assert "note: no gate is set" in answer.stderr
        assert answer.stdout == ""

    def test_leaves_nothing_but_its_own_folder(self, project: Path) -> None:
        play(project)
        assert sorted(item.name for item in project.iterdir()) == [".millrace", "my_config"]


class TestCompletion:
    def complete(self, project: Path, line: str) -> list[str]:
        answer = millrace(
            "-sc", "query=bash", cwd=project, environment={"COMP_LINE": line, "COMP_POINT": str(len(line))}
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.split()

    def test_of_commands(self, project: Path) -> None:
        assert self.complete(project, "millrace des") == ["describe"]

    def test_of_keys(self, project: Path) -> None:
        assert "train.epochs=" in self.complete(project, "millrace run train.ep")

    def test_of_groups(self, project: Path) -> None:
        assert self.complete(project, "millrace run pipeline=dig") == ["pipeline=digits"]

    def test_of_everything(self, project: Path) -> None:
        found = self.complete(project, "millrace run ")
        assert {"train.", "model=", "workers="} <= set(found)
        assert "defaults=" not in found

    def test_with_a_config_directory(self, project: Path) -> None:
        (project / "my_config" / "pipeline" / "play.yaml").write_text(
            "# @package _global_\ndefaults: [/defaults@_global_: play]\n"
            "pipeline: {name: play, function: 'tests.toys:play'}\n"
        )
        words = "millrace run --config-dir my_config pipeline=play"
        assert self.complete(project, words) == ["pipeline=play"]
        assert "work.seconds=" in self.complete(project, f"{words} work.")

    @pytest.mark.parametrize(
        ("line", "found"),
        [
            ("millrace describe tra", ["train"]),
            ("millrace describe --config-dir my_config pl", ["play"]),
            ("millrace run --cfg j", ["job"]),
            ("millrace run --config-n", ["--config-name"]),
            ("millrace doctor t", ["target=kubeflow", "target=local", "target=sagemaker"]),
            ("millrace  des", ["describe"]),
            ("millrace lineage lat", ["latest"]),
            ("millrace run --config-dir my", ["my_config"]),
            ("millrace run --config-dir my_config/", ["my_config/pipeline"]),
        ],
    )
    def test_of_other_words(self, project: Path, line: str, found: list[str]) -> None:
        assert self.complete(project, line) == found

    def test_in_a_shell(self, project: Path) -> None:
        script = (
            f'PATH="{Path(sys.executable).parent}:$PATH"; eval "$(millrace -sc install=bash)"\n'
            'COMP_LINE="millrace run model=m"; COMP_POINT=20; COMP_WORDS=(millrace run model=m); COMP_CWORD=2\n'
            'hydra_bash_completion; echo "${COMPREPLY[@]}"'
        )
        bash = shutil.which("bash") or "bash"
        answer = subprocess.run([bash, "-c", script], cwd=project, capture_output=True, text=True, check=False)
        assert answer.stdout.split() == ["model=mlp", "model=mobilenet"], answer.stderr

    @pytest.mark.parametrize("request_", [[], ["query=tcsh"], ["instal=bash"], ["install=bash", "more"]])
    def test_explains_a_wrong_request(self, project: Path, request_: list[str]) -> None:
        answer = millrace("-sc", *request_, cwd=project)
        assert answer.returncode == 2
        assert "error: usage: eval" in answer.stderr

    def test_prints_what_the_shell_evaluates(self, project: Path) -> None:
        answer = millrace("-sc", "install=bash", cwd=project)
        assert "hydra_bash_completion" in answer.stdout


class TestTheLibrary:
    def test_is_listed_without_heavy_imports(self, project: Path) -> None:
        script = (
            "import sys; from millrace.cli import main; code = main(['components']);"
            "heavy = {'tensorflow', 'keras', 'kfp', 'sagemaker', 'boto3', 'numpy', 'polars'} & set(sys.modules);"
            "print('HEAVY', sorted(heavy)); sys.exit(code)"
        )
        answer = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=project
        )
        assert answer.returncode == 0, answer.stderr
        assert "HEAVY []" in answer.stdout
        for name in ("manifest", "shard", "preprocess", "train", "tune", "evaluate", "quantize", "deploy"):
            assert re.search(rf"^{name}\s", answer.stdout, re.MULTILINE)

    def test_describes_a_component(self, project: Path) -> None:
        answer = millrace("describe", "shard", cwd=project)
        assert answer.returncode == 0, answer.stderr
        assert "parameters" in answer.stdout
        assert "Manifest" in answer.stdout

    def test_describes_a_pipeline(self, project: Path) -> None:
        answer = millrace("describe", "digits", "--config-dir", "my_config", cwd=project)
        assert answer.returncode == 0, answer.stderr
        rows = {line.split()[0]: line for line in answer.stdout.splitlines() if line.strip()}
        assert re.search(r" 30 ", rows["train.epochs"])
        assert re.search(r" 0\.97 ", rows["gate.accuracy"])
        assert re.search(r" 8 ", rows["preprocess.data[image].height"])
        assert re.search(r"^tasks: pictures -> .*tune -> train", answer.stdout, re.MULTILINE)
        assert "note: no gate is set" not in answer.stdout

    def test_describes_a_pipeline_of_the_users_own(self, project: Path) -> None:
        file = project / "my_config" / "pipeline" / "play.yaml"
        file.write_text(f"{file.read_text()}work: {{seconds: 0.25}}\n")
        answer = millrace("describe", "play", "--config-dir", "my_config", cwd=project)
        assert re.search(r"^work\.seconds .* 0\.25 ", answer.stdout, re.MULTILINE), answer.stdout
        assert re.search(r"^again\.seconds .* 0\.0 ", answer.stdout, re.MULTILINE)

    def test_tells_that_no_gate_is_set(self, project: Path) -> None:
        told = "note: no gate is set (gate.accuracy=0): a model is deployed however often it errs; gate.accuracy=0.9"
        assert told in millrace("describe", "tabular", cwd=project).stdout
        words = ("compile", "pipeline=tabular", "target=kubeflow", "manifest.source=s3://data/t.csv")
        assert told in millrace(*words, cwd=project).stdout
        assert told not in millrace(*words, "gate.accuracy=0.8", cwd=project).stdout

    def test_suggests_the_nearest_name(self, project: Path) -> None:
        answer = millrace("describe", "trian", cwd=project)
        assert answer.returncode == 2
        assert "did you mean 'train'?" in answer.stderr

    def test_takes_components_of_a_config_directory(self, project: Path) -> None:
        folder = project / "my_config" / "component"
        folder.mkdir()
        (folder / "judge.yaml").write_text("entry: tests.toys:judge\n")
        listed = millrace("components", "--config-dir", "my_config", cwd=project)
        assert re.search(r"^judge\s", listed.stdout, re.MULTILINE)
        assert "Give a score." in millrace("describe", "judge", "--config-dir", "my_config", cwd=project).stdout

    def test_explains_a_component_file_without_an_entry(self, project: Path) -> None:
        folder = project / "my_config" / "component"
        folder.mkdir()
        (folder / "judge.yaml").write_text("tests.toys:judge\n")
        answer = millrace("components", "--config-dir", "my_config", cwd=project)
        assert answer.returncode == 2
        assert "it needs one line such as `entry:" in answer.stderr

    def test_takes_components_and_pipelines_of_installed_packages(self, project: Path) -> None:
        package = project / "site" / "extra-1.0.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text(
            "[millrace.components]\njudge = tests.toys:judge\n[millrace.pipelines]\nplay = tests.toys:play\n"
        )
        listed = millrace("components", cwd=project, path=project / "site")
        assert re.search(r"^judge\s", listed.stdout, re.MULTILINE)
        described = millrace("describe", "play", cwd=project, path=project / "site")
        assert "work.behaviour" in described.stdout


class TestOtherCommands:
    def test_without_words_shows_the_overview(self, project: Path) -> None:
        answer = millrace(cwd=project)
        assert answer.returncode == 2
        assert "usage: millrace COMMAND" in answer.stdout

    @pytest.mark.parametrize("command", ["run", "compile", "components", "describe", "doctor", "exec", "submit"])
    def test_help_has_an_example(self, project: Path, command: str) -> None:
        answer = millrace(command, "--help", cwd=project)
        assert answer.returncode == 0
        assert f"  millrace {command}" in answer.stdout

    def test_unknown_command(self, project: Path) -> None:
        answer = millrace("rnu", cwd=project)
        assert answer.returncode == 2
        assert "error: unknown command 'rnu': did you mean 'run'?" in answer.stderr

    def test_doctor_finds_this_machine_well(self, project: Path) -> None:
        answer = millrace("doctor", cwd=project)
        assert answer.returncode == 0, answer.stdout
        assert "ok       packages of the 'train' containers" in answer.stdout
        assert re.search(
            r"^(ok       Horovod [\d.]+|-        Horovod is not installed: .*\n +to have it: make horovod)$",
            answer.stdout,
            re.MULTILINE,
        )

    def test_doctor_names_what_is_missing_and_what_mends_it(self, project: Path) -> None:
        blocker = project / "blocked"
        blocker.mkdir()
        (blocker / "sitecustomize.py").write_text(
            "import sys\n"
            "class Block:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'polars':\n"
            "            raise ModuleNotFoundError(name)\n"
            "sys.meta_path.insert(0, Block())\n"
        )
        answer = millrace("doctor", "target=local", cwd=project, path=blocker)
        assert answer.returncode == 1
        assert "no polars" in answer.stdout
        assert "mend it: pip install -e '.[data]'" in answer.stdout

    def test_doctor_of_an_unknown_target(self, project: Path) -> None:
        answer = millrace("doctor", "target=kubefow", cwd=project)
        assert answer.returncode == 2
        assert "did you mean 'kubeflow'?" in answer.stderr

    def test_exec_of_something_that_is_no_task(self, project: Path) -> None:
        assert millrace("exec", "--task", str(project / "nowhere"), cwd=project).returncode == 2
        answer = millrace("exec", "--task", str(project), cwd=project)
        assert answer.returncode == 2
        assert "is not a task directory" in answer.stderr

    def test_debug_shows_the_traceback(self, project: Path) -> None:
        answer = millrace("describe", "trian", "--debug", cwd=project)
        assert "Traceback" in answer.stderr


def test_importing_the_command_line_is_light(project: Path) -> None:
    script = (
        "import sys; import millrace.cli; print(len(sys.modules), 'pydantic' in sys.modules, 'hydra' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=project)
    assert answer.stdout.split()[1:] == ["True", "False"]


def test_a_run_goes_on_when_nobody_reads_its_output_any_more(project: Path) -> None:
    words = [sys.executable, "-m", "millrace", "run", "--config-dir", "my_config", "pipeline=play"]
    process = subprocess.Popen(
        words,
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(Path(toys.__file__).parents[1])},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.wait(timeout=60)
    (run,) = (project / ".millrace" / "runs").iterdir()
    assert '"state": "succeeded"' in (run / "run.json").read_text()
    assert (run / "report.html").exists()


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", ">&- 2>&-"])
def test_a_run_does_not_need_an_output(project: Path, redirection: str) -> None:
    words = f"{sys.executable} -m millrace run --config-dir my_config pipeline=play runner.root=root {redirection}"
    environment = {**os.environ, "PYTHONPATH": str(Path(toys.__file__).parents[1])}
    answer = subprocess.run(["/bin/sh", "-c", words], cwd=project, env=environment, capture_output=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert b"Traceback" not in answer.stderr
