"""TorchServe's settings, from a ``config.properties``: read as its front end reads them, and named where unknown."""

import codecs
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from marquee.serving.errors import OperationError
from marquee.serving.java_properties import parse

PATH_KEYS = (
    "certificate_file",
    "private_key_file",
    "keystore",
    "metrics_config",
    "model_store",
    "workflow_store",
    "cpp_log_config",
)
"""Settings whose values are paths; relative ones start at the folder of the settings file."""
KNOWN = {
    *("allowed_urls", "async_logging", "blacklist_env_vars", "certificate_file", "cors_allowed_headers"),
    *("cors_allowed_methods", "cors_allowed_origin", "cpp_log_config", "cpu_launcher_args", "cpu_launcher_enable"),
    *("debug", "decode_input_request", "default_response_timeout", "default_service_handler"),
    *("default_startup_timeout", "default_workers_per_model", "disable_system_metrics"),
    *("disable_token_authorization", "enable_envvars_config", "enable_grpc_ssl", "enable_metrics_api"),
    *("enable_model_api", "grpc_inference_address", "grpc_inference_max_connection_age_grace_ms"),
    *("grpc_inference_max_connection_age_ms", "grpc_inference_port", "grpc_management_address"),
    *("grpc_management_max_connection_age_grace_ms", "grpc_management_max_connection_age_ms"),
    *("grpc_management_port", "inference_address", "initial_distribution_port", "initial_worker_port"),
    *("install_py_dep_per_model", "io_ratio", "ipex_enable", "ipex_gpu_enable", "job_queue_size", "keystore"),
    *("keystore_pass", "keystore_type", "limit_max_image_pixels", "load_models", "management_address"),
    *("max_request_size", "max_response_size", "metric_time_interval", "metrics_address", "metrics_config"),
    *("metrics_mode", "model_metrics_auto_detect", "model_server_home", "model_snapshot", "model_store", "models"),
    *("netty_client_threads", "number_of_gpu", "number_of_netty_threads", "plugins_path", "prefer_direct_buffer"),
    *("private_key_file", "python", "service_envelope", "system_metrics_cmd", "token_expiration_min"),
    *("ts_header_key_sequence_end", "ts_header_key_sequence_id", "ts_header_key_sequence_start"),
    *("ts_open_inference_protocol", "unregister_model_timeout", "use_env_allowed_urls", "use_native_io", "version"),
    *("vmargs", "workflow_store"),
}
"""What TorchServe 0.12.0 reads: the constants of ``ConfigManager``, and two keys of its launcher."""
_ENVIRONMENT_NAMES = {"token_expiration_min": "TS_TOKEN_EXPIRATION_TIME_MIN"}


def read_properties(path: Path) -> dict[str, str]:
    """The settings of a Java properties file (see :func:`marquee.serving.java_properties.parse`).

    As in TorchServe, ``$$NAME$$`` is a variable of the environment, and with ``enable_envvars_config=true`` variables
    such as ``TS_INFERENCE_ADDRESS`` take precedence. A byte order mark is no part of the first key, and the file may
    be UTF-8, where TorchServe itself reads both differently.

    Raises:
        OperationError: the file cannot be read, or names a variable that is not set.
    """
    try:
        properties = parse(_decode(Path(path).read_bytes()))
    except (OSError, ValueError) as error:
        raise OperationError(f"{path}: not readable as a configuration: {error}") from error
    properties = {key: _with_variables(path, key, value) for key, value in properties.items()}
    if is_true(properties, "enable_envvars_config"):
        properties |= _from_environment(properties)
    return properties


def is_true(properties: Mapping[str, str], key: str) -> bool:
    """A Boolean setting, which is off unless it is ``true`` in upper or lower case."""
    return properties.get(key, "false").lower() == "true"


def unknown_settings(properties: Mapping[str, str]) -> list[str]:
    """A line for each key that TorchServe does not read, with the one that was probably meant."""
    lines = []
    for key in properties:
        if key not in KNOWN:
            matches = get_close_matches(key.lower(), KNOWN, 1)
            lines.append(f"{key}: no setting of TorchServe{f'; did you mean {matches[0]}?' if matches else ''}")
    return lines


def refuse_open_inference_protocol(path: Path, properties: Mapping[str, str]) -> None:
    """Raises OperationError where TorchServe's own Open Inference Protocol is switched on, and says why it may not be.

    Args:
        path: of the settings, for the message.
        properties: the settings.
    """
    is_in_environment = os.environ.get("TS_OPEN_INFERENCE_PROTOCOL") == "oip"  # which takes precedence
    if is_in_environment or is_true(properties, "ts_open_inference_protocol"):
        where = "the environment's TS_OPEN_INFERENCE_PROTOCOL=oip" if is_in_environment else str(path)
        raise OperationError(
            f"{where}: ts_open_inference_protocol=true: TorchServe's own Open Inference Protocol answers no standard "
            "client, always says that it is ready, and one ModelInfer ends the worker; leave the setting out: "
            "--gateway PORT speaks the protocol"
        )


def with_absolute_paths(properties: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The settings with relative paths resolved from ``folder``."""
    return {
        key: str((folder / value).absolute()) if key in PATH_KEYS and value else value
        for key, value in properties.items()
    }


def _decode(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # Java's own encoding of this format


def _with_variables(path: Path, key: str, value: str) -> str:
    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise OperationError(f"{path}: {key}: the environment has no variable {match[1]}; set it")
        return found

    return re.sub(r"\$\$([^$]+[^$])\$\$", replace, value)


def _from_environment(properties: Mapping[str, str]) -> dict[str, str]:
    names = {key: _ENVIRONMENT_NAMES.get(key, f"TS_{key.upper().removeprefix('TS_')}") for key in KNOWN}
    if not is_true(properties, "use_env_allowed_urls"):
        del names["allowed_urls"]
    return {key: os.environ[name] for key, name in names.items() if name in os.environ and name != "TS_MODELS"}
