"""The resources of Kubernetes, which Leeway reviews requests for but does not serve.

``kubectl auth can-i`` looks up the group and the scope of a resource in API discovery. A resource
without verbs tells it both, and that there is nothing to get. The key of a request depends on the
same scope.

Source: the paths of the API of kubernetes 1.37; ``kubectl api-resources`` for the short names.
"""

from typing import Final, NamedTuple


class KnownResource(NamedTuple):
    """A resource: its group (empty for the core group), version, names and scope."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    short_names: tuple[str, ...]


# GROUP/VERSION, then for each scope PLURAL=Kind[=short,short].
_TABLE: Final = {
    "v1": (
        "configmaps=ConfigMap=cm endpoints=Endpoints=ep events=Event=ev "
        "limitranges=LimitRange=limits persistentvolumeclaims=PersistentVolumeClaim=pvc "
        "pods=Pod=po podtemplates=PodTemplate "
        "replicationcontrollers=ReplicationController=rc resourcequotas=ResourceQuota=quota "
        "secrets=Secret serviceaccounts=ServiceAccount=sa services=Service=svc",
        "componentstatuses=ComponentStatus=cs namespaces=Namespace=ns nodes=Node=no "
        "persistentvolumes=PersistentVolume=pv",
    ),
    "admissionregistration.k8s.io/v1": (
        "",
        "mutatingadmissionpolicies=MutatingAdmissionPolicy "
        "mutatingadmissionpolicybindings=MutatingAdmissionPolicyBinding "
        "mutatingwebhookconfigurations=MutatingWebhookConfiguration "
        "validatingadmissionpolicies=ValidatingAdmissionPolicy "
        "validatingadmissionpolicybindings=ValidatingAdmissionPolicyBinding "
        "validatingwebhookconfigurations=ValidatingWebhookConfiguration",
    ),
    "apiextensions.k8s.io/v1": (
        "",
        "customresourcedefinitions=CustomResourceDefinition=crd,crds",
    ),
    "apiregistration.k8s.io/v1": ("", "apiservices=APIService"),
    "apps/v1": (
        "controllerrevisions=ControllerRevision daemonsets=DaemonSet=ds "
        "deployments=Deployment=deploy replicasets=ReplicaSet=rs statefulsets=StatefulSet=sts",
        "",
    ),
    "autoscaling/v2": ("horizontalpodautoscalers=HorizontalPodAutoscaler=hpa", ""),
    "batch/v1": ("cronjobs=CronJob=cj jobs=Job", ""),
    "certificates.k8s.io/v1": (
        "podcertificaterequests=PodCertificateRequest",
        "certificatesigningrequests=CertificateSigningRequest=csr "
        "clustertrustbundles=ClusterTrustBundle",
    ),
    "coordination.k8s.io/v1": ("leases=Lease", ""),
    "discovery.k8s.io/v1": ("endpointslices=EndpointSlice", ""),
    "events.k8s.io/v1": ("events=Event=ev", ""),
    "flowcontrol.apiserver.k8s.io/v1": (
        "",
        "flowschemas=FlowSchema prioritylevelconfigurations=PriorityLevelConfiguration",
    ),
    "networking.k8s.io/v1": (
        "ingresses=Ingress=ing networkpolicies=NetworkPolicy=netpol",
        "ingressclasses=IngressClass ipaddresses=IPAddress=ip servicecidrs=ServiceCIDR",
    ),
    "node.k8s.io/v1": ("", "runtimeclasses=RuntimeClass"),
    "policy/v1": ("poddisruptionbudgets=PodDisruptionBudget=pdb", ""),
    "rbac.authorization.k8s.io/v1": (
        "rolebindings=RoleBinding roles=Role",
        "clusterrolebindings=ClusterRoleBinding clusterroles=ClusterRole",
    ),
    "resource.k8s.io/v1": (
        "resourceclaims=ResourceClaim resourceclaimtemplates=ResourceClaimTemplate",
        "deviceclasses=DeviceClass devicetaintrules=DeviceTaintRule resourceslices=ResourceSlice",
    ),
    "scheduling.k8s.io/v1": ("", "priorityclasses=PriorityClass=pc"),
    "storage.k8s.io/v1": (
        "csistoragecapacities=CSIStorageCapacity",
        "csidrivers=CSIDriver csinodes=CSINode storageclasses=StorageClass=sc "
        "volumeattachments=VolumeAttachment volumeattributesclasses=VolumeAttributesClass=vac",
    ),
    "storagemigration.k8s.io/v1": ("", "storageversionmigrations=StorageVersionMigration"),
}


def _read() -> tuple[KnownResource, ...]:
    found = []
    for group_version, scopes in _TABLE.items():
        group, _, version = group_version.rpartition("/")
        for namespaced, text in zip((True, False), scopes, strict=True):
            for entry in text.split():
                plural, kind, *short = entry.split("=")
                names = tuple(name for names in short for name in names.split(","))
                found.append(KnownResource(group, version, plural, kind, namespaced, names))
    return tuple(found)


KNOWN: Final = _read()
