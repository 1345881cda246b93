{{- define "oip-host.name" -}}
{{ .Values.name | default .Release.Name }}
{{- end }}

{{- define "oip-host.image" -}}
{{ .Values.image | default (printf "oip-host:%s" .Chart.AppVersion) }}
{{- end }}

{{- define "oip-host.knative" -}}
{{ if has .Values.mode (list "Knative" "Serverless") }}true{{ end }}
{{- end }}

{{- /* The port of the probes and of the metrics: Knative asks one port only. */}}
{{- define "oip-host.healthPort" -}}
{{ if and .Values.ports.probe (not (include "oip-host.knative" .)) }}{{ .Values.ports.probe }}{{ else }}{{ .Values.ports.http }}{{ end }}
{{- end }}

{{- define "oip-host.healthScheme" -}}
{{ if and .Values.tls (eq (include "oip-host.healthPort" .) (toString .Values.ports.http)) }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{- /* Seconds from SIGTERM within which the host has ended of its own accord. */}}
{{- define "oip-host.stopSeconds" -}}
{{ ceil (addf .Values.drainDelaySeconds .Values.gracePeriodSeconds 8) | int }}
{{- end }}

{{- define "oip-host.faults" -}}
{{- $alone := eq .Values.mode "Deployment" }}
{{- if and $alone (ne .Values.runtime "none") }}{{ fail "runtime: needs KServe, not mode Deployment" }}{{ end }}
{{- if and $alone .Values.storageUri }}{{ fail "storageUri: needs KServe, not mode Deployment" }}{{ end }}
{{- if and $alone .Values.replicas.max }}{{ fail "replicas.max: needs KServe, not mode Deployment" }}{{ end }}
{{- if and .Values.check .Values.storageUri }}{{ fail "check: runs before KServe brings what storageUri names" }}{{ end }}
{{- if and .Values.check (ne .Values.runtime "none") }}{{ fail "check: a runtime has no init containers" }}{{ end }}
{{- if and .Values.tls (include "oip-host.knative" .) }}{{ fail "tls: Knative asks the container in plain HTTP" }}{{ end }}
{{- if and (eq (int .Values.replicas.min) 0) (not (include "oip-host.knative" .)) }}{{ fail "replicas.min: 0 needs Knative" }}{{ end }}
{{- if and .Values.replicas.max (lt (int .Values.replicas.max) (int .Values.replicas.min)) }}{{ fail "replicas.max: less than replicas.min" }}{{ end }}
{{- end }}

{{- define "oip-host.metadata" -}}
name: {{ include "oip-host.name" . }}
namespace: {{ .Release.Namespace }}
{{- end }}

{{- define "oip-host.labels" -}}
app.kubernetes.io/name: oip-host
app.kubernetes.io/instance: {{ include "oip-host.name" . }}
{{- end }}

{{- define "oip-host.annotations" -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ include "oip-host.healthPort" . | quote }}
prometheus.io/path: /metrics
{{- if eq (include "oip-host.healthScheme" .) "HTTPS" }}
prometheus.io/scheme: https
{{- end }}
prometheus.kserve.io/port: {{ include "oip-host.healthPort" . | quote }}
prometheus.kserve.io/path: /metrics
{{- end }}

{{- /* A list of variables by name; `$` is doubled, for Kubernetes expands $(NAME). */}}
{{- define "oip-host.env" -}}
{{- $values := .root.Values }}
{{- $plain := dict }}
{{- $secret := list }}
{{- if .server }}
{{- $_ := set $plain "HOME" "/tmp" }}
{{- range $name, $value := $values.env }}{{ $_ := set $plain $name $value }}{{ end }}
{{- if ne (int $values.ports.http) 8080 }}{{ $_ := set $plain "KSERVE_HTTP_PORT" (toString $values.ports.http) }}{{ end }}
{{- if not $values.ports.grpc }}{{ $_ := set $plain "KSERVE_ENABLE_GRPC" "false" }}
{{- else if ne (int $values.ports.grpc) 8081 }}{{ $_ := set $plain "KSERVE_GRPC_PORT" (toString $values.ports.grpc) }}{{ end }}
{{- if $values.ports.probe }}{{ $_ := set $plain "OIP_PROBE_PORT" (toString $values.ports.probe) }}{{ end }}
{{- if ne (float64 $values.drainDelaySeconds) 5.0 }}{{ $_ := set $plain "OIP_DRAIN_DELAY_S" (toString $values.drainDelaySeconds) }}{{ end }}
{{- if ne (float64 $values.gracePeriodSeconds) 30.0 }}{{ $_ := set $plain "OIP_GRACE_PERIOD_S" (toString $values.gracePeriodSeconds) }}{{ end }}
{{- range $values.secretEnv }}{{ if not (hasPrefix "OIP_MODELS__" .) }}{{ $secret = append $secret . }}{{ end }}{{ end }}
{{- end }}
{{- if .models }}
{{- if $values.handlers }}{{ $_ := set $plain "OIP_HANDLERS" $values.handlers }}{{ end }}
{{- if $values.models }}{{ $_ := set $plain "OIP_MODELS" (toJson $values.models) }}{{ end }}
{{- range $values.secretEnv }}{{ if hasPrefix "OIP_MODELS__" . }}{{ $secret = append $secret . }}{{ end }}{{ end }}
{{- end }}
{{- if .kserve }}
{{- $_ := set $plain "PROTOCOL" "v2" }}
{{- if $values.storageUri }}{{ $_ := set $plain "STORAGE_URI" $values.storageUri }}{{ end }}
{{- end }}
{{- range $name := concat (keys $plain) $secret | uniq | sortAlpha }}
- name: {{ $name }}
  {{- if has $name $secret }}
  valueFrom:
    secretKeyRef:
      name: {{ include "oip-host.name" $.root }}-secrets
      key: {{ $name }}
  {{- else }}
  value: {{ get $plain $name | replace "$" "$$" | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "oip-host.args" -}}
{{- range .Values.args }}
- {{ . | replace "$" "$$" | quote }}
{{- end }}
{{- end }}

{{- define "oip-host.amount" -}}
cpu: {{ .Values.resources.cpu | quote }}
memory: {{ .Values.resources.memory | quote }}
{{- end }}

{{- define "oip-host.bounds" -}}
resources:
  requests:
    {{- include "oip-host.amount" . | nindent 4 }}
  limits:
    {{- include "oip-host.amount" . | nindent 4 }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  privileged: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- with .Values.volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "oip-host.probe" -}}
httpGet:
  path: {{ .path }}
  port: {{ include "oip-host.healthPort" .root }}
  scheme: {{ include "oip-host.healthScheme" .root }}
{{ toYaml .times }}
{{- end }}

{{- define "oip-host.container" -}}
name: kserve-container
image: {{ include "oip-host.image" .root }}
{{- with include "oip-host.args" .root }}
args:
  {{- . | nindent 2 }}
{{- end }}
env:
  {{- include "oip-host.env" . | nindent 2 }}
ports:
  {{- include "oip-host.ports" .root | nindent 2 }}
startupProbe:
  {{- include "oip-host.probe" (dict "root" .root "path" "/v2/health/live" "times" .root.Values.probes.startup) | nindent 2 }}
livenessProbe:
  {{- include "oip-host.probe" (dict "root" .root "path" "/v2/health/live" "times" .root.Values.probes.liveness) | nindent 2 }}
readinessProbe:
  {{- include "oip-host.probe" (dict "root" .root "path" "/v2/health/ready" "times" .root.Values.probes.readiness) | nindent 2 }}
{{ include "oip-host.bounds" .root }}
{{- end }}

{{- define "oip-host.ports" -}}
{{- if include "oip-host.knative" . -}}
- name: http1
  containerPort: {{ .Values.ports.http }}
  protocol: TCP
{{- else -}}
- name: http
  containerPort: {{ .Values.ports.http }}
  protocol: TCP
{{- if .Values.ports.grpc }}
- name: grpc
  containerPort: {{ .Values.ports.grpc }}
  protocol: TCP
{{- end }}
{{- if .Values.ports.probe }}
- name: health
  containerPort: {{ .Values.ports.probe }}
  protocol: TCP
{{- end }}
{{- end }}
{{- end }}

{{- define "oip-host.spec" -}}
enableServiceLinks: false
automountServiceAccountToken: false
{{- if include "oip-host.knative" . }}
timeout: {{ max 300 (include "oip-host.stopSeconds" .) }}
{{- else }}
terminationGracePeriodSeconds: {{ include "oip-host.stopSeconds" . }}
{{- end }}
{{- with .Values.podSpec }}
{{ toYaml . }}
{{- end }}
{{- if .Values.check }}
initContainers:
  - name: check
    image: {{ include "oip-host.image" . }}
    command:
      - oip-host
      - check
      {{- with include "oip-host.args" . }}
      {{- . | nindent 6 }}
      {{- end }}
    env:
      {{- include "oip-host.env" (dict "root" . "server" true "models" true) | nindent 6 }}
    {{- include "oip-host.bounds" . | nindent 4 }}
{{- end }}
{{- end }}

{{- define "oip-host.volumes" -}}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: 1Gi
  {{- with .Values.volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
