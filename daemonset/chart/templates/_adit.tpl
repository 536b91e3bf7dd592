{{- /*
What is done to one object of the base. Each definition takes (object, kustomization, values), changes the object, and
prints nothing.
*/ -}}

{{- /* Namespace and labels, as Kustomize puts them. */ -}}
{{- define "adit.placed" -}}
{{- $meta := .object.metadata }}
{{- $everywhere := list "Namespace" "PriorityClass" "ClusterRole" "ClusterRoleBinding" "ValidatingAdmissionPolicy" "ValidatingAdmissionPolicyBinding" }}
{{- if not (has .object.kind $everywhere) }}
{{- $_ := set $meta "namespace" .kustomization.namespace }}
{{- end }}
{{- range $label := .kustomization.labels }}
{{- $_ := set $meta "labels" (merge (dict) (deepCopy $label.pairs) ($meta.labels | default dict)) }}
{{- if and $label.includeTemplates (has $.object.kind (list "DaemonSet" "Deployment")) }}
{{- $template := $.object.spec.template.metadata }}
{{- $_ := set $template "labels" (merge (dict) (deepCopy $label.pairs) $template.labels) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What values say of this object. */ -}}
{{- define "adit.configured" -}}
{{- $kind := .object.kind }}
{{- if eq $kind "DaemonSet" }}
{{- include "adit.pod" (dict "spec" .object.spec "values" .values "part" .values.node) }}
{{- else if eq $kind "Deployment" }}
{{- include "adit.pod" (dict "spec" .object.spec "values" .values "part" .values.controller) }}
{{- if not (kindIs "invalid" .values.controller.replicas) }}
{{- $_ := set .object.spec "replicas" .values.controller.replicas }}
{{- end }}
{{- else if and (eq $kind "ConfigMap") (eq .object.metadata.name "adit") }}
{{- include "adit.data" . }}
{{- else if and (eq $kind "ValidatingAdmissionPolicy") (eq .object.metadata.name "adit-slice-addresses") }}
{{- include "adit.ranges" . }}
{{- else if eq $kind "NetworkPolicy" }}
{{- include "adit.ports" . }}
{{- end }}
{{- end }}

{{- /* Image, resources and place of a workload: takes (spec, values, part). */ -}}
{{- define "adit.pod" -}}
{{- $part := .part }}
{{- $pod := .spec.template.spec }}
{{- $image := .values.image.repository }}
{{- with .values.image.tag }}{{ $image = printf "%s:%s" $image . }}{{ end }}
{{- with .values.image.digest }}{{ $image = printf "%s@%s" $image . }}{{ end }}
{{- range $container := concat ($pod.initContainers | default list) $pod.containers }}
{{- $_ := set $container "image" $image }}
{{- with $.values.imagePullPolicy }}{{ $_ := set $container "imagePullPolicy" . }}{{ end }}
{{- end }}
{{- with .values.imagePullSecrets }}{{ $_ := set $pod "imagePullSecrets" . }}{{ end }}
{{- $main := first $pod.containers }}
{{- $_ := set $main "resources" (mergeOverwrite $main.resources (deepCopy $part.resources)) }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $part $key }}{{ $_ := set $pod $key . }}{{ end }}
{{- end }}
{{- $meta := .spec.template.metadata }}
{{- /* The base's own count: selectors rest on them. */}}
{{- with $part.podLabels }}{{ $_ := set $meta "labels" (merge (dict) $meta.labels .) }}{{ end }}
{{- with $part.podAnnotations }}{{ $_ := set $meta "annotations" (merge (dict) ($meta.annotations | default dict) .) }}{{ end }}
{{- with $part.terminationGracePeriodSeconds }}{{ $_ := set $pod "terminationGracePeriodSeconds" . }}{{ end }}
{{- end }}

{{- /* The keys of ConfigMap adit. */ -}}
{{- define "adit.data" -}}
{{- $data := dict }}
{{- if .values.cluster }}
{{- $cluster := dict "cluster" .values.cluster }}
{{- with .values.trustDomain }}{{ $_ := set $cluster "trustDomain" . }}{{ end }}
{{- $_ := set $data "cluster.yaml" (printf "%s\n" (toYaml $cluster)) }}
{{- else if .values.trustDomain }}
{{- fail "trustDomain without cluster: the first key names both" }}
{{- end }}
{{- range $link := .values.links }}
{{- $_ := set $data (printf "link-%s.yaml" $link.cluster) (printf "%s\n" (toYaml (dict "links" (list $link)))) }}
{{- end }}
{{- range $key := list "network" "log" }}
{{- with get $.values $key }}{{ $_ := set $data (printf "%s.yaml" $key) (printf "%s\n" (toYaml (dict $key .))) }}{{ end }}
{{- end }}
{{- range $name, $fragment := .values.config }}
{{- $key := printf "%s.yaml" (trimSuffix ".yaml" $name) }}
{{- if hasKey $data $key }}
{{- fail (printf "config.%s: another value writes key %s already" $name $key) }}
{{- end }}
{{- $_ := set $data $key (kindIs "string" $fragment | ternary $fragment (printf "%s\n" (toYaml $fragment))) }}
{{- end }}
{{- if $data }}{{ $_ := set .object "data" $data }}{{ end }}
{{- end }}

{{- /* The ranges that our slices may lead into: those of the network that is configured, the base's for what it does not say. */ -}}
{{- define "adit.ranges" -}}
{{- $variable := first .object.spec.variables }}
{{- $ranges := regexFindAll "[0-9a-f.:]+/[0-9]+" $variable.expression -1 }}
{{- $ranges = list (.values.network.range | default (first $ranges)) (.values.network.range6 | default (last $ranges)) }}
{{- with .values.sliceRanges }}{{ $ranges = . }}{{ end }}
{{- if and (eq (.values.network.mode | default "") "nodeAddress") (not .values.sliceRanges) }}
{{- fail "network.mode nodeAddress: sliceRanges has to name the ranges of the nodes' addresses" }}
{{- end }}
{{- $_ := set $variable "expression" (printf "['%s']" (join "', '" $ranges)) }}
{{- end }}

{{- /* The ports that the controller is let out to. */ -}}
{{- define "adit.ports" -}}
{{- $rule := first .object.spec.egress }}
{{- range $port := $rule.ports }}
{{- if and (eq $port.protocol "UDP") (ne (int $port.port) 53) $.values.network.port }}
{{- $_ := set $port "port" $.values.network.port }}
{{- end }}
{{- end }}
{{- range $port := .values.controller.apiServerPorts }}
{{- $_ := set $rule "ports" (append $rule.ports (dict "protocol" "TCP" "port" $port)) }}
{{- end }}
{{- end }}
