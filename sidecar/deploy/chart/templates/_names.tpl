{{/* What more than one template says. */}}

{{/* Labels of everything. Pods have only their component's: nothing of a pod changes with the chart's
     version alone. */}}
{{- define "s3pod.labels" -}}
app.kubernetes.io/name: s3pod
app.kubernetes.io/part-of: s3pod
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* An image: (dict "root" $ "image" .Values.image). */}}
{{- define "s3pod.image" -}}
{{- $registry := .root.Values.imageRegistry | default .image.registry -}}
{{- $tag := .image.tag | default .root.Chart.AppVersion -}}
{{- printf "%s/%s:%s" $registry .image.repository $tag -}}
{{- with .image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{/* The folder of the driver's socket. Apart from its mounts: whoever mounts the folder of the
     socket must not get a copy of every bucket with it, which would outlive the unmount. */}}
{{- define "s3pod.socketDir" -}}
{{ .Values.kubeletPath }}/plugins/{{ .Values.driverName }}/socket
{{- end }}

{{/* The folder of the driver's own mounts and its state. */}}
{{- define "s3pod.stateDir" -}}
{{ .Values.kubeletPath }}/plugins/{{ .Values.driverName }}/state
{{- end }}

{{/* Where the pods of a component go: (dict "root" $ "component" .Values.node). */}}
{{- define "s3pod.placement" -}}
{{- with .root.Values.imagePullSecrets -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .component.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What a container beside the driver may: nothing. */}}
{{- define "s3pod.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* The environment of what talks to S3. */}}
{{- define "s3pod.environment" -}}
{{- with .root.Values.credentials.secretName }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: { secretKeyRef: { name: {{ . }}, key: accessKeyId } }
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ . }}, key: secretAccessKey } }
- name: AWS_SESSION_TOKEN
  valueFrom: { secretKeyRef: { name: {{ . }}, key: sessionToken, optional: true } }
{{- end }}
{{- if .root.Values.extraCA.configMapName }}
- { name: AWS_CA_BUNDLE, value: /etc/s3pod/ca/{{ .root.Values.extraCA.key }} }
{{- end }}
{{- with .root.Values.proxy.url }}
- { name: HTTPS_PROXY, value: {{ . | quote }} }
- { name: HTTP_PROXY, value: {{ . | quote }} }
{{- end }}
{{- with .root.Values.proxy.noProxy }}
- { name: NO_PROXY, value: {{ . | quote }} }
{{- end }}
{{- with .component.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
