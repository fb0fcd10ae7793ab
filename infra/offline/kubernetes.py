"""Kubernetes objects by server-side apply, on any API server that a kubeconfig leads to."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any

from infra.offline.errors import OfflineError
from infra.offline.resource import Properties, Request, ResourceType

FIELD_MANAGER = "hybrid"
_DELETION_WAIT_SECONDS = 60.0


class Cluster:
    """The API server of the provider's ``kubeconfig`` (its text, or the path of a file)."""

    def __init__(self, configuration: Properties) -> None:
        import httpx

        config, folder = _kubeconfig(configuration.get("kubeconfig"))
        name = configuration.get("context") or config.get("current-context")
        context = _named(config, "contexts", "context", name)
        chosen = configuration.get("cluster") or context.get("cluster")
        cluster = _named(config, "clusters", "cluster", chosen)
        user = _named(config, "users", "user", context.get("user"))
        self.namespace = configuration.get("namespace") or context.get("namespace") or "default"
        self._server = cluster["server"]
        self._http = httpx.Client(
            base_url=self._server,
            headers=_authorisation(user, folder),
            verify=_transport_security(cluster, user, folder),
            timeout=60.0,
            trust_env=False,  # proxies of this shell are not meant for the cluster
        )

    def call(self, method: str, path: str, **options: Any) -> Properties | None:
        """The answer to a call; None when the object does not exist.

        Raises
        ------
        OfflineError
            The API refuses, with its own reason, or does not answer.
        """
        import httpx

        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise OfflineError(f"the Kubernetes API at {self._server} fails: {error}") from error
        if answer.status_code == 404 and method in ("GET", "DELETE"):
            return None
        if answer.is_error:
            try:
                reason = answer.json()["message"]
            except (ValueError, KeyError, TypeError):
                reason = answer.text.strip()[:300]
            raise OfflineError(f"the Kubernetes API refused {method} {path}: {reason}")
        return answer.json()


def _kubeconfig(text: str | None) -> tuple[Properties, Path]:
    """A kubeconfig, and the folder that relative paths in it start from."""
    import yaml

    if not text:
        raise OfflineError(
            "the kubernetes provider has no kubeconfig: set its `kubeconfig` (text or path), for "
            "the offline plugin never takes the cluster of your shell"
        )
    folder = Path.cwd()
    if "\n" not in text and not text.lstrip().startswith("{"):
        path = Path(text).expanduser()
        try:
            text, folder = path.read_text(), path.parent
        except OSError as error:
            raise OfflineError(
                f"the kubeconfig {str(path)!r} cannot be read: {error.strerror}"
            ) from error
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OfflineError("the kubeconfig is not valid YAML") from error
    if not isinstance(config, dict):
        raise OfflineError("the kubeconfig is not a YAML mapping")
    return config, folder


def _named(config: Properties, plural: str, singular: str, name: str | None) -> Properties:
    for entry in config.get(plural) or ():
        if entry.get("name") == name:
            return entry.get(singular) or {}
    raise OfflineError(f"the kubeconfig has no {singular} {name!r}")


def _authorisation(user: Properties, folder: Path) -> dict[str, str]:
    if "exec" in user or "auth-provider" in user:
        raise OfflineError(
            "the kubeconfig's user gets its credentials from another program: give one with a "
            "token or a client certificate"
        )
    token = user.get("token")
    if token is None and user.get("tokenFile"):
        token = folder.joinpath(user["tokenFile"]).read_text().strip()
    if token is not None:
        return {"Authorization": f"Bearer {token}"}
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def _pem(entry: Properties, name: str, folder: Path) -> bytes | None:
    if entry.get(f"{name}-data"):
        return base64.b64decode(entry[f"{name}-data"])
    return folder.joinpath(entry[name]).read_bytes() if entry.get(name) else None


def _transport_security(
    cluster: Properties, user: Properties, folder: Path
) -> ssl.SSLContext | bool:
    if not cluster.get("server", "").startswith("https:"):
        return False
    authority = _pem(cluster, "certificate-authority", folder)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = _pem(user, "client-certificate", folder)
    key = _pem(user, "client-key", folder)
    if certificate and key:
        # OpenSSL reads a key from a file only: a private one, gone when it has been read.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _kind(
    api_version: str,
    kind: str,
    plural: str,
    *,
    namespaced: bool = True,
    replace_on: tuple[str, ...] = (),
    secrets: tuple[str, ...] = (),
) -> ResourceType:
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"

    def path(cluster: Cluster, metadata: Properties) -> str:
        namespace = metadata.get("namespace") or cluster.namespace
        scope = f"/namespaces/{namespace}" if namespaced else ""
        return f"{root}{scope}/{plural}/{metadata['name']}"

    def path_of(cluster: Cluster, identity: str) -> str:
        namespace, _, name = identity.rpartition("/")
        return path(cluster, {"namespace": namespace, "name": name})

    def apply(cluster: Cluster, inputs: Properties) -> Properties:
        body = inputs | {"apiVersion": api_version, "kind": kind}
        applied = cluster.call(
            "PATCH",
            path(cluster, inputs["metadata"]),
            params={"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"},
            headers={"Content-Type": "application/apply-patch+yaml"},
            content=json.dumps(body),
        )
        assert applied is not None
        return _visible(applied)

    def create(cluster: Cluster, request: Request) -> tuple[str, Properties]:
        live = apply(cluster, request.inputs)
        metadata = live["metadata"]
        name = metadata["name"]
        return (f"{metadata['namespace']}/{name}" if namespaced else name), live

    def update(
        cluster: Cluster, identity: str, new: Properties, old: Properties
    ) -> Properties | None:
        return apply(cluster, new) if old else None

    def read(cluster: Cluster, identity: str, state: Properties) -> Properties | None:
        live = cluster.call("GET", path_of(cluster, identity))
        return None if live is None else _visible(live)

    def delete(cluster: Cluster, identity: str, state: Properties) -> None:
        where = path_of(cluster, identity)
        cluster.call("DELETE", where, params={"propagationPolicy": "Background"})
        deadline = time.monotonic() + _DELETION_WAIT_SECONDS
        while cluster.call("GET", where) is not None:
            if time.monotonic() > deadline:
                raise OfflineError(
                    f"{kind} {identity!r} is still there {_DELETION_WAIT_SECONDS:.0f} s after its "
                    "deletion: see its finalizers, and whether the controller manager runs"
                )
            time.sleep(0.2)

    return ResourceType(
        create=create,
        read=read,
        delete=delete,
        configure=update,
        replace_on=("metadata.name", "metadata.namespace", *replace_on),
        name="metadata.name",
        secrets=secrets,
    )


def _visible(live: Properties) -> Properties:
    """The object without the server's bookkeeping, which changes though nothing did."""
    hidden = ("managedFields", "resourceVersion")
    metadata = {key: value for key, value in live["metadata"].items() if key not in hidden}
    return live | {"metadata": metadata}


connect = Cluster

# `replace_on` follows the official plugin: immutable fields, and the contents of ConfigMaps and
# Secrets, which running pods would not see otherwise.
TYPES = {
    "kubernetes:core/v1:Namespace": _kind("v1", "Namespace", "namespaces", namespaced=False),
    "kubernetes:core/v1:Service": _kind(
        "v1", "Service", "services", replace_on=("spec.clusterIP",)
    ),
    "kubernetes:core/v1:ResourceQuota": _kind("v1", "ResourceQuota", "resourcequotas"),
    "kubernetes:core/v1:ServiceAccount": _kind("v1", "ServiceAccount", "serviceaccounts"),
    "kubernetes:core/v1:ConfigMap": _kind(
        "v1", "ConfigMap", "configmaps", replace_on=("data", "binaryData", "immutable")
    ),
    "kubernetes:core/v1:Secret": _kind(
        "v1",
        "Secret",
        "secrets",
        replace_on=("data", "stringData", "type", "immutable"),
        secrets=("data", "stringData"),
    ),
    "kubernetes:core/v1:PersistentVolumeClaim": _kind(
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        replace_on=(
            "spec.accessModes",
            "spec.selector",
            "spec.storageClassName",
            "spec.volumeName",
            "spec.volumeMode",
        ),
    ),
    "kubernetes:apps/v1:Deployment": _kind(
        "apps/v1", "Deployment", "deployments", replace_on=("spec.selector",)
    ),
    "kubernetes:apps/v1:DaemonSet": _kind(
        "apps/v1", "DaemonSet", "daemonsets", replace_on=("spec.selector",)
    ),
    "kubernetes:node.k8s.io/v1:RuntimeClass": _kind(
        "node.k8s.io/v1",
        "RuntimeClass",
        "runtimeclasses",
        namespaced=False,
        replace_on=("handler",),
    ),
    "kubernetes:rbac.authorization.k8s.io/v1:ClusterRole": _kind(
        "rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", namespaced=False
    ),
    "kubernetes:rbac.authorization.k8s.io/v1:ClusterRoleBinding": _kind(
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
        namespaced=False,
        replace_on=("roleRef",),
    ),
    "kubernetes:rbac.authorization.k8s.io/v1:Role": _kind(
        "rbac.authorization.k8s.io/v1", "Role", "roles"
    ),
    "kubernetes:rbac.authorization.k8s.io/v1:RoleBinding": _kind(
        "rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", replace_on=("roleRef",)
    ),
    "kubernetes:batch/v1:Job": _kind(
        "batch/v1",
        "Job",
        "jobs",
        replace_on=("spec.template", "spec.selector", "spec.completionMode"),
    ),
    "kubernetes:networking.k8s.io/v1:NetworkPolicy": _kind(
        "networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"
    ),
    "kubernetes:policy/v1:PodDisruptionBudget": _kind(
        "policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"
    ),
}
