{{- define "genloop.name" -}}{{ default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}{{- end }}

{{- define "genloop.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "genloop.name" .) .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name (include "genloop.name" .) | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "genloop.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "genloop.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: genloop
{{- end }}

{{- define "genloop.selector" -}}
app.kubernetes.io/name: {{ include "genloop.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "genloop.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "genloop.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "genloop.fullname" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "genloop.secret" -}}{{ .Values.secrets.existingSecret | default (printf "%s-keys" (include "genloop.fullname" .)) }}{{- end }}
{{- define "genloop.claim" -}}{{ .Values.store.existingClaim | default (printf "%s-store" (include "genloop.fullname" .)) }}{{- end }}

{{- /* The configuration file that every pod mounts: what is the same for all. */ -}}
{{- define "genloop.config" -}}
{{- $shared := dict "log" (printf "kafka://%s" (join "," .Values.kafka.brokers)) "bus" (printf "tcp://%s:7700" .Values.listenAddress) "admin" (printf "%s:9090" .Values.listenAddress) }}
{{- if not .Values.redis.existingSecret }}{{ $_ := set $shared "redis" .Values.redis.url }}{{ end }}
{{- $gateway := dict "gateway" (dict "listen" (printf "%s:8080" .Values.listenAddress)) }}
{{- $all := mergeOverwrite $shared $gateway (deepCopy .Values.config) }}
{{- range $key, $value := $all }}
{{- if not (and (kindIs "map" $value) (empty $value)) }}
{{ toYaml (dict $key $value) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Whether a kind of the Prometheus operator is wanted: true, false, or auto: where the cluster knows it. */ -}}
{{- define "genloop.operator" -}}
{{- if eq (toString .want) "auto" }}{{ if .root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}yes{{ end }}{{ else if eq (toString .want) "true" }}yes{{ end }}
{{- end }}

{{- /*
The pod of a service. (dict "root" $ "service" "ingest" "values" .Values.ingest "stateful" bool)
*/ -}}
{{- define "genloop.pod" -}}
{{- $ := .root }}{{ $service := .service }}{{ $v := .values }}
metadata:
  labels:
    {{- include "genloop.labels" $ | nindent 4 }}
    app.kubernetes.io/component: {{ $service }}
  annotations:
    checksum/config: {{ include "genloop.config" $ | sha256sum }}
    {{- with $v.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "genloop.serviceAccount" $ }}
  automountServiceAccountToken: false
  enableServiceLinks: false # their variables (GENLOOP_GATEWAY_PORT…) would be taken for keys of the configuration
  terminationGracePeriodSeconds: {{ $v.terminationGracePeriodSeconds }}
  securityContext: {{- toYaml $.Values.podSecurityContext | nindent 4 }}
  {{- with $.Values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $v.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector: {matchLabels: {app.kubernetes.io/name: {{ include "genloop.name" $ }}, app.kubernetes.io/instance: {{ $.Release.Name }}, app.kubernetes.io/component: {{ $service }}}}
  containers:
    - name: {{ $service }}
      image: {{ include "genloop.image" $ | quote }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      command: ["/usr/bin/genloop-{{ $service }}", "--config", "/etc/genloop/genloop.yaml"]
      securityContext: {{- toYaml $.Values.securityContext | nindent 8 }}
      env:
        - {name: GENLOOP_HOME, value: /var/lib/genloop}
        - {name: GENLOOP_INSTANCE, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: GENLOOP_ADVERTISE, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: GENLOOP_BUS_KEY_FILE, value: /run/secrets/genloop/bus-key}
        {{- if eq $service "feedback" }}
        - {name: GENLOOP_FEEDBACK_REGISTRY_KEY_FILE, value: /run/secrets/genloop/registry-key}
        {{- end }}
        {{- if and (eq $service "gateway") $v.tls.existingSecret }}
        - {name: GENLOOP_GATEWAY_TLS_CERTIFICATE, value: /run/secrets/tls/tls.crt}
        - {name: GENLOOP_GATEWAY_TLS_KEY, value: /run/secrets/tls/tls.key}
        {{- end }}
        {{- with $.Values.redis.existingSecret }}
        - {name: GENLOOP_REDIS, valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.Values.redis.urlKey }}}}}
        {{- end }}
        {{- with $.Values.kafka.existingSecret }}
        - {name: GENLOOP_LOG_PROPERTIES, valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.Values.kafka.propertiesKey }}}}}
        {{- end }}
        {{- with $v.env }}{{ toYaml . | nindent 8 }}{{ end }}
      ports:
        {{- if eq $service "gateway" }}
        - {name: http, containerPort: 8080}
        {{- else }}
        - {name: bus, containerPort: 7700}
        {{- end }}
        - {name: admin, containerPort: 9090}
      # Until it stands the kubelet waits: a long log is folded first. Then: it lives while it answers, and gets work while it is ready.
      startupProbe: {httpGet: {path: /livez, port: admin}, periodSeconds: 2, failureThreshold: 60}
      livenessProbe: {httpGet: {path: /livez, port: admin}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
      readinessProbe: {httpGet: {path: /readyz, port: admin}, periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 2}
      # SIGTERM drains (drain_ms); before it the pod goes on while its address is taken off the lists.
      lifecycle: {preStop: {exec: {command: ["/bin/sleep", "{{ $v.preStopSeconds }}"]}}}
      resources: {{- toYaml $v.resources | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/genloop, readOnly: true}
        - {name: secrets, mountPath: /run/secrets/genloop, readOnly: true}
        {{- if and (eq $service "gateway") $v.tls.existingSecret }}
        - {name: tls, mountPath: /run/secrets/tls, readOnly: true}
        {{- end }}
        - {name: home, mountPath: /var/lib/genloop}
        - {name: store, mountPath: /var/lib/genloop/store, subPath: store}
        - {name: store, mountPath: /var/lib/genloop/keys, subPath: keys}
        {{- if .stateful }}
        - {name: work, mountPath: /var/lib/genloop/work}
        {{- end }}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: config
      configMap: {name: {{ include "genloop.fullname" $ }}}
    - name: secrets
      secret:
        secretName: {{ include "genloop.secret" $ }}
        defaultMode: 0440
        items:
          - {key: bus-key, path: bus-key}
          {{- if eq $service "feedback" }}
          - {key: registry-key, path: registry-key} # of feedback alone: who has it signs as the registry
          {{- end }}
    {{- if and (eq $service "gateway") $v.tls.existingSecret }}
    - name: tls
      secret: {secretName: {{ $v.tls.existingSecret }}, defaultMode: 0440}
    {{- end }}
    - name: home
      emptyDir: {}
    - name: store
      persistentVolumeClaim: {claimName: {{ include "genloop.claim" $ }}}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
{{- end }}
