"""The cluster files we ship: complete, valid by Ray's own schema, closed to strangers (R-I2, R-I5)."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.scripts import scripts

from infra import cli
from infra.ray import auth, clusters
from lensdata import jobs, steps
from lensdata.errors import InputError
from tests import crd

ROOT = Path(__file__).parents[3]
FILES = ROOT / "configs" / "infra" / "ray"
NAMES = sorted(path.stem for path in FILES.glob("*.yaml"))
SAID = {"REPLACE_WORKER_IPS": "10.0.0.2", "REPLACE_REGION": "us-east-1", "REPLACE_ZONES": "us-east-1a"}


@pytest.fixture
def filled(tmp_path):
    """A shipped file with every placeholder replaced."""

    def one(name, **changes):
        text = (FILES / f"{name}.yaml").read_text()
        for old, new in changes.items():
            assert old.replace("__", ": ") in text
            text = text.replace(old.replace("__", ": "), new)
        path = tmp_path / f"{name}.yaml"
        path.write_text(clusters.PLACEHOLDER.sub(lambda match: SAID.get(match[0], "something"), text))
        return path

    return one


def texts(value):
    """Every text in nested values."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_to_be_replaced_is_named_in_one_sentence(name, capsys):
    assert cli.main(["ray", "up", str(FILES / f"{name}.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    left = set(clusters.PLACEHOLDER.findall(" ".join(texts(yaml.safe_load((FILES / f"{name}.yaml").read_text())))))
    assert len(left) >= 2
    assert left == set(clusters.PLACEHOLDER.findall(said))


@pytest.mark.parametrize("name", ["aws", "gh200"])
def test_ray_itself_takes_the_file(name, filled):
    clusters.check(clusters.read(filled(name)))


def test_a_key_that_ray_does_not_know_is_refused_before_anything_starts(filled):
    with pytest.raises(InputError, match="Ray refuses this cluster file: .*max_wokers"):
        clusters.check(clusters.read(filled("aws", max_workers__10="max_wokers: 10")))


@pytest.mark.parametrize("name", ["kuberay_cluster", "kuberay_job"])
def test_the_published_definitions_take_our_files(name, filled):
    """``LENSDATA_KUBERAY_CRDS`` is a folder of ray.io_rayclusters.yaml and ray.io_rayjobs.yaml of a release of KubeRay."""
    folder = os.environ.get("LENSDATA_KUBERAY_CRDS")
    if folder is None:
        pytest.skip(
            "LENSDATA_KUBERAY_CRDS names no folder of KubeRay's definitions, a megabyte each (docs/guide/ray.md)"
        )
    values = yaml.safe_load(filled(name).read_text())
    definition = yaml.safe_load((Path(folder) / f"ray.io_{values['kind'].lower()}s.yaml").read_text())
    crd.validator(definition).validate(values)


def test_a_definition_refuses_what_it_does_not_know_and_what_is_of_another_type():
    quantity = {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": "^[0-9]+(Gi)?$",
        "x-kubernetes-int-or-string": True,
    }
    spec = {"type": "object", "required": ["image"], "properties": {
        "image": {"type": "string"}, "limits": {"type": "object", "additionalProperties": quantity},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"a": {"type": "integer"}}},
        "ports": {"type": "array", "items": {"type": "object", "properties": {"port": {"type": "integer"}}}},
    }}  # fmt: skip
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    found = crd.validator({"spec": {"versions": [{"name": "v1", "schema": schema}]}})
    good = {"image": "x", "limits": {"memory": "4Gi", "cpu": 2}, "free": {"b": 1}, "ports": [{"port": 1}]}
    found.validate({"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "x"}, "spec": good})
    for wrong in (
        {"imaeg": "x"},
        {"image": 3},
        {"limits": {"cpu": 1.5}},
        {"ports": [{"prot": 1}]},
        {"ports": [{"port": "1"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            found.validate({"spec": good | wrong})
    with pytest.raises(jsonschema.ValidationError, match="image"):
        found.validate({"spec": {}})


@pytest.mark.parametrize("name", ["kuberay_cluster", "kuberay_job"])
def test_kuberay_knows_every_field(name, filled):
    schema = yaml.safe_load((Path(__file__).parent / "kuberay_schema.yaml").read_text())
    values = yaml.safe_load(filled(name).read_text())
    one = {"$defs": schema["$defs"], "$ref": f"#/$defs/{values['kind']}"}
    jsonschema.Draft202012Validator(one).validate(values)
    values["spec"]["rayVersoin"] = "2.60.0"
    with pytest.raises(jsonschema.ValidationError, match="rayVersoin"):
        jsonschema.Draft202012Validator(one).validate(values)


@pytest.mark.parametrize("name", ["aws", "gh200"])
def test_every_machine_asks_for_the_token_and_shows_its_dashboard_to_itself_alone(name, filled):
    values = yaml.safe_load(filled(name).read_text())
    assert values["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in text for text in texts(values))
    [head] = [line for line in values["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in head


@pytest.mark.parametrize("name", ["kuberay_cluster", "kuberay_job"])
def test_pods_ask_for_the_token_and_have_memory_for_objects(name, filled):
    values = yaml.safe_load(filled(name).read_text())["spec"]
    spec = values.get("rayClusterSpec", values)
    assert spec["authOptions"] == {"mode": "token"}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        [shm] = [volume for volume in pod["volumes"] if volume["name"] == "shm"]
        assert shm["emptyDir"]["medium"] == "Memory"
        for container in pod["containers"]:
            assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert {"NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"} <= {each["name"] for each in container["env"]}


def test_the_job_of_kubernetes_is_a_command_line_that_the_step_takes():
    spec = yaml.safe_load((FILES / "kuberay_job.yaml").read_text())["spec"]
    python, dash, module, *arguments = shlex.split(spec["entrypoint"])
    assert (python, dash) == ("python", "-m")
    [job] = [job for job in jobs.JOBS.values() if job.module == module]
    here = [str(ROOT / "configs" / "training" / word.removeprefix("/config/")) if word.startswith("/config/") else word
            for word in arguments]  # fmt: skip
    assert steps.parse(job, here).output.startswith("s3://")


@pytest.mark.parametrize("name", NAMES)
def test_every_top_key_says_why_and_nothing_is_secret(name):
    text = (FILES / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert "Never run on" in text
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY", text)


def test_up_prints_the_tunnel_and_what_to_export(filled, monkeypatch, capsys, tmp_path):
    started = []
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("infra.ray.cli.run_command", lambda line, more: started.append((line, more)) or 0)
    monkeypatch.setattr("infra.ray.cli._head_ip", lambda definition: "192.0.2.7")
    assert cli.main(["ray", "up", "--yes", str(filled("gh200"))]) == 0
    [(line, more)] = started
    assert line[1:3] == ["up", "--yes"]
    assert more == {"RAY_AUTH_MODE": "token"}
    shown = capsys.readouterr().out
    assert "ssh -N -i something -L 8265:127.0.0.1:8265" in shown
    assert "something@192.0.2.7" in shown
    assert f"export RAY_AUTH_TOKEN_PATH={tmp_path / 'token'}" in shown
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "token").read_text() not in shown


def test_a_cluster_whose_key_ray_makes_is_reached_by_ray(filled):
    definition = clusters.read(filled("aws"))
    assert "ssh_private_key" not in definition.values["auth"]
    line = shlex.split(definition.reach("192.0.2.7")[0])
    assert line[:3] == ["RAY_AUTH_MODE=token", "ray", "attach"]
    context = scripts.attach.make_context("attach", line[3:])  # Ray's own reading of the line
    assert context.params["port_forward"] == (8265, 9090, 3000)
    assert context.params["cluster_config_file"] == str(definition.path)


def test_a_program_that_is_missing_is_named(filled, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert cli.main(["ray", "up", str(filled("kuberay_cluster"))]) == 2
    assert "The program kubectl" in capsys.readouterr().err


def test_a_token_is_made_once_and_one_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "ray" / "auth_token"
    assert auth.ensure_token(path)
    first = path.read_text()
    assert len(first) == 64
    assert not auth.ensure_token(path)
    assert path.read_text() == first
    path.chmod(0o644)
    with pytest.raises(InputError, match="can be read by others"):
        auth.ensure_token(path)


def test_the_interface_of_nccl_and_gloo_is_one_setting():
    for name in ("aws", "gh200"):
        lines = (FILES / f"{name}.yaml").read_text().splitlines()
        code = [line.partition(" #")[0] for line in lines if not line.startswith("#")]
        assert len([line for line in code if re.search(r"LENSDATA_INTERFACE=\w", line)]) == 1
        assert all("$LENSDATA_INTERFACE" in line for line in code if "SOCKET_IFNAME" in line)


class TestWatching:
    """Prometheus and Grafana."""

    FOLDER = ROOT / "configs" / "infra"

    def test_prometheus_reads_the_list_of_nodes_that_ray_writes(self):
        from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

        [job] = yaml.safe_load((self.FOLDER / "prometheus.yml").read_text())["scrape_configs"]
        [files] = job["file_sd_configs"]
        assert files == {"files": [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}

    def test_grafana_has_rays_own_dashboards_and_ours_and_asks_on_the_loopback(self):
        folder = self.FOLDER / "grafana" / "provisioning"
        [source] = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
        assert source["url"] == "http://127.0.0.1:9090"
        assert source["name"] == "Prometheus"
        providers = yaml.safe_load((folder / "dashboards" / "dashboards.yaml").read_text())["providers"]
        paths = [provider["options"]["path"] for provider in providers]
        assert any(path.endswith("session_latest/metrics/grafana/dashboards") for path in paths)
        assert len(paths) == 2
        assert "http_addr = 127.0.0.1" in (self.FOLDER / "grafana" / "grafana.ini").read_text()
