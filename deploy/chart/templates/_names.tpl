{{- define "mesh.selector" -}}
app.kubernetes.io/name: mesh
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mesh.labels" -}}
{{ include "mesh.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "mesh.name" -}}
{{- if eq .Release.Name "mesh" -}}mesh{{- else -}}{{ printf "%s-mesh" .Release.Name | trunc 63 | trimSuffix "-" }}{{- end -}}
{{- end -}}
