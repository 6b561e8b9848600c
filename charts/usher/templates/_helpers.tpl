{{- define "usher.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "usher.fullname" -}}
{{- $name := include "usher.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* The full name with an ending, within the limit of 63 characters. Argument: (list . "tls"). */ -}}
{{- define "usher.suffixed" -}}
{{- $ending := index . 1 -}}
{{- $room := sub 62 (len $ending) | int -}}
{{- printf "%s-%s" (include "usher.fullname" (index . 0) | trunc $room | trimSuffix "-") $ending -}}
{{- end -}}

{{- define "usher.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end -}}

{{- define "usher.selectorLabels" -}}
app.kubernetes.io/name: {{ include "usher.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "usher.labels" -}}
{{ include "usher.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The metadata of an object.
Argument: dict with "root", and optionally "name", "namespace", "labels" and "annotations". */ -}}
{{- define "usher.metadata" -}}
{{- $root := .root -}}
metadata:
  name: {{ .name | default (include "usher.fullname" $root) | quote }}
  namespace: {{ .namespace | default (include "usher.namespace" $root) | quote }}
  labels:
    {{- merge (dict) (.labels | default dict) (include "usher.labels" $root | fromYaml) | toYaml | nindent 4 }}
  {{- with merge (dict) (.annotations | default dict) ($root.Values.commonAnnotations | default dict) }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "usher.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "usher.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "usher.image" -}}
{{- $registry := .Values.global.imageRegistry | default .Values.image.registry -}}
{{- $name := .Values.image.repository -}}
{{- if $registry -}}{{- $name = printf "%s/%s" (trimSuffix "/" $registry) $name -}}{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "usher.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}
{{- .Values.tls.certManager.secretName | default (include "usher.suffixed" (list . "tls")) -}}
{{- else -}}
{{- .Values.tls.existingSecret | default "" -}}
{{- end -}}
{{- end -}}

{{- /* "true" if the listener behind the Service is plain HTTP. */ -}}
{{- define "usher.isPlain" -}}
{{- $isPlain := false -}}
{{- range (include "usher.config" . | fromJson).listener -}}
{{- if and (hasSuffix (printf ":%v" $.Values.ports.listener) (.address | toString)) .plain -}}
{{- $isPlain = true -}}
{{- end -}}
{{- end -}}
{{- $isPlain -}}
{{- end -}}

{{- define "usher.servicePort" -}}
{{- .Values.service.port | default (ternary 80 443 (eq (include "usher.isPlain" .) "true")) -}}
{{- end -}}

{{- /* "true" if several pods run. */ -}}
{{- define "usher.hasSeveralPods" -}}
{{- if .Values.autoscaling.enabled -}}
{{- if gt (int .Values.autoscaling.maxReplicas) 1 -}}true{{- end -}}
{{- else if kindIs "invalid" .Values.replicaCount -}}true
{{- else if gt (int .Values.replicaCount) 1 -}}true{{- end -}}
{{- end -}}

{{- /* The peer of a network policy, or nothing for all. Argument: an entry of egress.allow. */ -}}
{{- define "usher.peer" -}}
{{- with .cidr }}
ipBlock:
  cidr: {{ . | quote }}
{{- end }}
{{- with .namespace }}
namespaceSelector:
  matchLabels:
    kubernetes.io/metadata.name: {{ . | quote }}
{{- end }}
{{- with .podLabels }}
podSelector:
  matchLabels:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}

{{- /* How Prometheus' operator scrapes the admin port. Argument: dict with "root" and "monitor". */ -}}
{{- define "usher.endpoint" -}}
- port: admin
  path: /metrics
  {{- with .monitor.interval }}
  interval: {{ . | quote }}
  {{- end }}
  {{- with .monitor.scrapeTimeout }}
  scrapeTimeout: {{ . | quote }}
  {{- end }}
  {{- with .root.Values.admin.existingSecret }}
  {{- if .name }}
  authorization:
    credentials:
      name: {{ .name | quote }}
      key: {{ .key | quote }}
  {{- end }}
  {{- end }}
  {{- with .monitor.relabelings }}
  relabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .monitor.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- /* A file of rules or dashboards, whose links have the addresses of the values. Arguments: list of the root and the path. */ -}}
{{- define "usher.linked" -}}
{{- $root := index . 0 -}}
{{- $text := $root.Files.Get (index . 1) -}}
{{- with $root.Values.links.runbooks -}}
{{- $text = $text | replace "docs/runbooks/" (printf "%s/" (trimSuffix "/" .)) -}}
{{- end -}}
{{- with $root.Values.links.grafana -}}
{{- $text = $text | replace "\"/d/usher-" (printf "\"%s/d/usher-" (trimSuffix "/" .)) -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{- /* The list with the fields that the API server adds. A tool that compares what is stored with what was
rendered takes a list with added fields for another one, and applies it for ever.
Argument: (list LIST (dict FIELD VALUE ...)). */ -}}
{{- define "usher.filled" -}}
{{- $filled := list -}}
{{- range index . 0 -}}
{{- $one := deepCopy . -}}
{{- range $key, $value := index $ 1 -}}
{{- if not (hasKey $one $key) -}}{{- $_ := set $one $key $value -}}{{- end -}}
{{- end -}}
{{- $filled = append $filled $one -}}
{{- end -}}
{{- toYaml $filled -}}
{{- end -}}

{{- define "usher.parentRefs" -}}
{{- include "usher.filled" (list . (dict "group" "gateway.networking.k8s.io" "kind" "Gateway")) -}}
{{- end -}}

{{- define "usher.backendRefs" -}}
- group: ""
  kind: Service
  name: {{ include "usher.fullname" . | quote }}
  port: {{ include "usher.servicePort" . }}
  weight: 1
{{- end -}}

{{- define "usher.policyRules" -}}
{{- $rules := list -}}
{{- range . -}}
{{- $rule := deepCopy . -}}
{{- if $rule.ports -}}
{{- $_ := set $rule "ports" (include "usher.filled" (list $rule.ports (dict "protocol" "TCP")) | fromYamlArray) -}}
{{- end -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- toYaml $rules -}}
{{- end -}}

{{- /* A whole number as the API server stores a quantity: 10000 is 10k. */ -}}
{{- define "usher.quantity" -}}
{{- $number := int64 . -}}
{{- $unit := "" -}}
{{- range $next := list "k" "M" "G" -}}
{{- if and (gt $number 0) (eq (mod $number 1000) 0) -}}
{{- $number = div $number 1000 -}}
{{- $unit = $next -}}
{{- end -}}
{{- end -}}
{{- printf "%d%s" $number $unit -}}
{{- end -}}
