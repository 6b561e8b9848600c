{{- /* Combinations that the schema cannot refuse. Each message names the value and the remedy. */ -}}
{{- define "usher.validate" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is empty: build the image and name it here; there is no published one" -}}
{{- end -}}
{{- $sources := list -}}
{{- if .Values.config -}}{{- $sources = append $sources "config" -}}{{- end -}}
{{- if .Values.configText -}}{{- $sources = append $sources "configText" -}}{{- end -}}
{{- if .Values.existingConfigMap.name -}}{{- $sources = append $sources "existingConfigMap" -}}{{- end -}}
{{- if ne (len $sources) 1 -}}
{{- fail (printf "exactly one of config, configText and existingConfigMap.name is needed; given: %s" (join ", " $sources | default "none")) -}}
{{- end -}}
{{- include "usher.validateNames" . -}}
{{- include "usher.validateTls" . -}}
{{- if not .Values.existingConfigMap.name -}}
{{- include "usher.validateConfig" (dict "root" . "config" (include "usher.config" . | fromJson)) -}}
{{- end -}}
{{- include "usher.validatePod" . -}}
{{- include "usher.validateVolumes" . -}}
{{- include "usher.validateService" . -}}
{{- $_ := include "usher.graceSeconds" . -}}
{{- with .Values.podDisruptionBudget -}}
{{- if and .enabled (not (kindIs "invalid" .minAvailable)) (not (kindIs "invalid" .maxUnavailable)) -}}
{{- fail "podDisruptionBudget has minAvailable and maxUnavailable: a budget has one of them" -}}
{{- end -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas (%d) is greater than autoscaling.maxReplicas (%d)" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled .Values.serviceMonitor.enabled -}}
{{- fail "podMonitor and serviceMonitor are both enabled: every metric would be collected twice" -}}
{{- end -}}
{{- if and .Values.drain.preStop (.Values.lifecycle | default dict).preStop -}}
{{- fail "drain.preStop and lifecycle.preStop are both set: a container has one preStop hook" -}}
{{- end -}}
{{- range .Values.networkPolicy.egress.allow -}}
{{- if and .cidr (or .namespace .podLabels) -}}
{{- fail (printf "networkPolicy.egress.allow has cidr %s beside namespace or podLabels: make two entries of it" .cidr) -}}
{{- end -}}
{{- end -}}
{{- include "usher.validateRoutes" . -}}
{{- end -}}

{{- define "usher.validateNames" -}}
{{- $name := include "usher.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the objects would be named %q, which Kubernetes refuses: set fullnameOverride to small letters, digits and hyphens, with a letter first" $name) -}}
{{- end -}}
{{- end -}}

{{- define "usher.validateTls" -}}
{{- $tls := .Values.tls -}}
{{- if and $tls.enabled $tls.certManager.enabled $tls.existingSecret -}}
{{- fail "tls.existingSecret and tls.certManager.enabled are both set: one Secret has the certificate" -}}
{{- end -}}
{{- if $tls.certManager.enabled -}}
{{- if not $tls.enabled -}}{{- fail "tls.certManager.enabled is set, but tls.enabled is false" -}}{{- end -}}
{{- if not $tls.certManager.issuerRef.name -}}{{- fail "tls.certManager.issuerRef.name is empty" -}}{{- end -}}
{{- if not $tls.certManager.dnsNames -}}{{- fail "tls.certManager.dnsNames is empty" -}}{{- end -}}
{{- include "usher.validateCertificate" $tls.certManager -}}
{{- end -}}
{{- if .Values.config -}}
{{- $first := first (.Values.config.listener | default (list dict)) -}}
{{- if not (or $first.certificates $first.acme $first.plain) -}}
{{- if and $tls.enabled (not (include "usher.tlsSecret" .)) -}}
{{- fail "the listener has no certificate: set tls.existingSecret, tls.certManager, or the listener's certificates or acme; or tls.enabled=false behind a proxy that ends TLS" -}}
{{- end -}}
{{- if and (not $tls.enabled) (hasKey $first "plain") -}}
{{- fail "tls.enabled is false, but the first of config.listener has plain: false. Remove one of the two" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Argument: tls.certManager. */ -}}
{{- define "usher.validateCertificate" -}}
{{- if ge (include "usher.sumOfSeconds" .renewBefore | int) (include "usher.sumOfSeconds" .duration | int) -}}
{{- fail (printf "tls.certManager.renewBefore (%s) is not less than tls.certManager.duration (%s)" .renewBefore .duration) -}}
{{- end -}}
{{- with .privateKey -}}
{{- $size := .size | default 0 | int -}}
{{- if and $size (eq .algorithm "RSA") (lt $size 2048) -}}
{{- fail (printf "tls.certManager.privateKey.size is %d: an RSA key has 2048 or more" $size) -}}
{{- end -}}
{{- if and $size (eq .algorithm "ECDSA") (not (has $size (list 256 384 521))) -}}
{{- fail (printf "tls.certManager.privateKey.size is %d: an ECDSA key has 256, 384 or 521" $size) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Argument: dict with "root" and "config". */ -}}
{{- define "usher.validateConfig" -}}
{{- $values := .root.Values -}}
{{- $local := "^(127\\.|\\[::1\\]|localhost|unix:)" -}}
{{- $isServed := false -}}
{{- range .config.listener -}}
{{- if hasSuffix (printf ":%v" $values.ports.listener) (.address | toString) -}}
{{- if regexMatch $local .address -}}
{{- fail (printf "listener %s: a Service cannot reach a loopback address; use [::]:%v" .address $values.ports.listener) -}}
{{- end -}}
{{- $isServed = true -}}
{{- end -}}
{{- end -}}
{{- if not $isServed -}}
{{- fail (printf "no listener of the configuration has port %v: set ports.listener to the port of the one that the Service leads to" $values.ports.listener) -}}
{{- end -}}
{{- $admin := .config.admin -}}
{{- if not $admin -}}
{{- fail "the configuration has no [admin]: the probes need it" -}}
{{- end -}}
{{- if or (regexMatch $local ($admin.address | toString)) (not (hasSuffix (printf ":%v" $values.ports.admin) ($admin.address | toString))) -}}
{{- fail (printf "[admin] address is %v: the probes need [::]:%v, or ports.admin with its port" $admin.address $values.ports.admin) -}}
{{- end -}}
{{- if not (or $admin.token_env $admin.token_file) -}}
{{- fail "[admin] has no token: set admin.existingSecret.name, or admin.token_env or admin.token_file in the configuration" -}}
{{- end -}}
{{- if and $values.redis.tls.existingSecret $values.redis.url (not (hasPrefix "rediss" $values.redis.url)) -}}
{{- fail "redis.tls.existingSecret is set, but redis.url has no TLS: write rediss://" -}}
{{- end -}}
{{- if and $values.redis.url $values.configText -}}
{{- fail "redis.url is set with configText: write [store] into the text, and supply its password with secretEnv" -}}
{{- end -}}
{{- if and $values.redis.url ((($values.config | default dict).store) | default dict).url -}}
{{- fail "redis.url and config.store.url are both set" -}}
{{- end -}}
{{- if gt (include "usher.seconds" ((.config.drain | default dict).delay | default "0s") | int) 300 -}}
{{- fail (printf "drain.delay is %v, and may be 5m at most: balancers need seconds to notice" .config.drain.delay) -}}
{{- end -}}
{{- $store := .config.store | default dict -}}
{{- range prepend (values ($store.regions | default dict)) $store -}}
{{- if contains "@" (.url | default "") -}}
{{- fail "the URL of the store has a user or a password, and a ConfigMap is no place for it: set redis.username and redis.existingSecret, or store.username and store.password_env" -}}
{{- end -}}
{{- end -}}
{{- $given := dict -}}
{{- range include "usher.env" .root | fromJsonArray -}}{{- $_ := set $given .name . -}}{{- end -}}
{{- range include "usher.namedEnv" .config | fromJsonArray -}}
{{- $entry := get $given . -}}
{{- if and $entry (hasKey $entry "value") -}}
{{- fail (printf "extraEnv has the secret %s as a plain value: put it into a Secret, and name that in secretEnv" .) -}}
{{- end -}}
{{- if not (or $entry $values.extraEnvFrom) -}}
{{- fail (printf "the configuration reads the environment variable %s, which nothing supplies: add it to secretEnv" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Argument: dict with "names" and "where". */ -}}
{{- define "usher.validateUnique" -}}
{{- $seen := list -}}
{{- range .names -}}
{{- if has . $seen -}}{{- fail (printf "%s: %s is there twice" $.where .) -}}{{- end -}}
{{- $seen = append $seen . -}}
{{- end -}}
{{- end -}}

{{- /* Ports, environment and containers of the pod. */ -}}
{{- define "usher.validatePod" -}}
{{- if eq (int .Values.ports.listener) (int .Values.ports.admin) -}}
{{- fail (printf "ports.listener and ports.admin are both %v" .Values.ports.admin) -}}
{{- end -}}
{{- $names := list "listener" "admin" -}}
{{- range .Values.extraPorts -}}
{{- if .name -}}{{- $names = append $names .name -}}{{- end -}}
{{- end -}}
{{- include "usher.validateUnique" (dict "names" $names "where" "extraPorts and the chart's own") -}}
{{- $names = list -}}
{{- range include "usher.env" . | fromJsonArray -}}{{- $names = append $names .name -}}{{- end -}}
{{- include "usher.validateUnique" (dict "names" $names "where" "secretEnv, extraEnv and the chart's own") -}}
{{- $names = list "usher" -}}
{{- range concat (.Values.extraContainers | default list) (.Values.initContainers | default list) -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- include "usher.validateUnique" (dict "names" $names "where" "extraContainers, initContainers and the chart's own") -}}
{{- end -}}

{{- /* The volumes of the chart and of the user, and the files that the configuration names in them. */ -}}
{{- define "usher.validateVolumes" -}}
{{- $folders := dict "config" "/etc/usher/config" "state" "/var/lib/usher" -}}
{{- if include "usher.tlsSecret" . -}}{{- $_ := set $folders "tls" "/etc/usher/tls" -}}{{- end -}}
{{- if .Values.contextKeys.existingSecret -}}{{- $_ := set $folders "context-keys" "/etc/usher/keys" -}}{{- end -}}
{{- if .Values.redis.tls.existingSecret -}}{{- $_ := set $folders "redis-ca" "/etc/usher/redis" -}}{{- end -}}
{{- $volumes := keys $folders -}}
{{- range .Values.extraVolumes -}}{{- $volumes = append $volumes .name -}}{{- end -}}
{{- include "usher.validateUnique" (dict "names" $volumes "where" "extraVolumes and the chart's own") -}}
{{- $mounts := values $folders -}}
{{- range .Values.extraVolumeMounts -}}
{{- if not (has .name $volumes) -}}
{{- fail (printf "extraVolumeMounts mounts %s, which extraVolumes does not have" .name) -}}
{{- end -}}
{{- $mounts = append $mounts .mountPath -}}
{{- end -}}
{{- include "usher.validateUnique" (dict "names" $mounts "where" "extraVolumeMounts and the chart's own") -}}
{{- if not .Values.existingConfigMap.name -}}
{{- $config := include "usher.config" . -}}
{{- range $folder, $value := dict "tls" "tls.existingSecret" "keys" "contextKeys.existingSecret" "redis" "redis.tls.existingSecret" -}}
{{- $path := printf "/etc/usher/%s" $folder -}}
{{- $isMounted := or (contains $path (toRawJson $mounts)) (has "/etc/usher" $mounts) -}}
{{- if and (contains (printf "\"%s/" $path) $config) (not $isMounted) -}}
{{- fail (printf "the configuration names files in %s, where nothing is mounted: set %s, or extraVolumes and extraVolumeMounts" $path $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What the API of Kubernetes refuses in a Service. */ -}}
{{- define "usher.validateService" -}}
{{- $isPlain := eq (include "usher.isPlain" .) "true" -}}
{{- with .Values.service -}}
{{- $isBalancer := eq .type "LoadBalancer" -}}
{{- if eq .type "ClusterIP" -}}
{{- if .nodePort -}}{{- fail "service.nodePort is set, but service.type is ClusterIP" -}}{{- end -}}
{{- if .externalTrafficPolicy -}}{{- fail "service.externalTrafficPolicy is set, but service.type is ClusterIP" -}}{{- end -}}
{{- else if eq .clusterIP "None" -}}
{{- fail (printf "service.clusterIP is None, but service.type is %s" .type) -}}
{{- end -}}
{{- if and .loadBalancerClass (not $isBalancer) -}}
{{- fail (printf "service.loadBalancerClass is set, but service.type is %s" .type) -}}
{{- end -}}
{{- if and .loadBalancerSourceRanges (not $isBalancer) -}}
{{- fail (printf "service.loadBalancerSourceRanges is set, but service.type is %s" .type) -}}
{{- end -}}
{{- if and .sessionAffinityConfig (ne .sessionAffinity "ClientIP") -}}
{{- fail "service.sessionAffinityConfig is set, but service.sessionAffinity is not ClientIP" -}}
{{- end -}}
{{- $names := list (ternary "http" "https" $isPlain) -}}
{{- $ports := list (printf "TCP %v" (include "usher.servicePort" $)) -}}
{{- range .extraPorts -}}
{{- $names = append $names .name -}}
{{- $ports = append $ports (printf "%s %v" (.protocol | default "TCP") .port) -}}
{{- end -}}
{{- include "usher.validateUnique" (dict "names" $names "where" "service.extraPorts and the chart's own") -}}
{{- include "usher.validateUnique" (dict "names" $ports "where" "service.extraPorts and the chart's own") -}}
{{- end -}}
{{- end -}}

{{- define "usher.validateRoutes" -}}
{{- $isPlain := eq (include "usher.isPlain" .) "true" -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled is set, but ingress.hosts is empty" -}}
{{- end -}}
{{- with .Values.httpRoute -}}
{{- if and .enabled (not .parentRefs) -}}{{- fail "httpRoute.enabled is set, but httpRoute.parentRefs names no Gateway" -}}{{- end -}}
{{- if .backendTLS.enabled -}}
{{- if $isPlain -}}{{- fail "httpRoute.backendTLS.enabled is set, but the listener is plain" -}}{{- end -}}
{{- if not .backendTLS.hostname -}}{{- fail "httpRoute.backendTLS.hostname is empty" -}}{{- end -}}
{{- if eq (empty .backendTLS.caCertificateRefs) (empty .backendTLS.wellKnownCACertificates) -}}
{{- fail "httpRoute.backendTLS needs either caCertificateRefs or wellKnownCACertificates" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.tlsRoute -}}
{{- if .enabled -}}
{{- if $isPlain -}}{{- fail "tlsRoute.enabled is set, but the listener is plain: the Gateway passes TLS through" -}}{{- end -}}
{{- if not .parentRefs -}}{{- fail "tlsRoute.enabled is set, but tlsRoute.parentRefs names no Gateway" -}}{{- end -}}
{{- if not .hostnames -}}{{- fail "tlsRoute.enabled is set, but tlsRoute.hostnames is empty" -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
