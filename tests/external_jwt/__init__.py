"""kube-apiserver as a signer sees it: the messages, a client, a model of its checks, claims.

Written from KEP-740 and kube-apiserver's ``pkg/serviceaccount/externaljwt/plugin``, without the
generated code and without the policy of ``webhook.signer``, which they test.
"""
