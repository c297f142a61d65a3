{{- define "nasc.name" -}}nifcloud-additional-storage-csi{{- end }}

{{- define "nasc.labels" -}}
app.kubernetes.io/name: nifcloud-additional-storage-csi
app.kubernetes.io/part-of: nifcloud-additional-storage-csi
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "nasc.selector" -}}
app.kubernetes.io/name: nifcloud-additional-storage-csi
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "nasc.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "nasc.logEnv" -}}
{{- with .Values.log.level }}
- name: LOG_LEVEL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.log.format }}
- name: LOG_FORMAT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "nasc.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "nasc.leaderProbe" -}}
httpGet: {path: /healthz/leader-election, port: {{ . }}}
initialDelaySeconds: 10
periodSeconds: 20
timeoutSeconds: 10
failureThreshold: 3
{{- end }}

{{- define "nasc.sidecarMounts" -}}
- {name: socket, mountPath: /csi}
- {name: kubernetes, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
