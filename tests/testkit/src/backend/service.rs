//! The dispatch from s3s's trait to the verbs: names only, no behaviour.

use std::sync::Arc;

use s3s::{S3, S3Request, S3Response, S3Result, dto};

use super::{
    Backend, buckets, copy, delete, list, list_versions, multipart, multipart_list, put, read, tags,
};

/// The backend as s3s sees it.
#[derive(Clone, Debug)]
pub(crate) struct Service(pub(crate) Arc<Backend>);

/// Implements the trait's methods, each by one call.
macro_rules! verbs {
    ($($name:ident($req:ident: $input:ident) -> $output:ident = |$backend:ident| $call:expr;)*) => {
        #[async_trait::async_trait]
        impl S3 for Service {
            $(async fn $name(
                &self,
                $req: S3Request<dto::$input>,
            ) -> S3Result<S3Response<dto::$output>> {
                let $backend = &*self.0;
                $call
            })*
        }
    };
}

verbs! {
    create_bucket(req: CreateBucketInput) -> CreateBucketOutput =
        |backend| buckets::create(backend, &req);
    delete_bucket(req: DeleteBucketInput) -> DeleteBucketOutput =
        |backend| buckets::delete(backend, &req);
    head_bucket(req: HeadBucketInput) -> HeadBucketOutput =
        |backend| buckets::head(backend, &req);
    list_buckets(_req: ListBucketsInput) -> ListBucketsOutput =
        |backend| Ok(buckets::list(backend));
    get_bucket_location(req: GetBucketLocationInput) -> GetBucketLocationOutput =
        |backend| buckets::location(backend, &req);
    put_bucket_versioning(req: PutBucketVersioningInput) -> PutBucketVersioningOutput =
        |backend| buckets::put_versioning(backend, &req);
    get_bucket_versioning(req: GetBucketVersioningInput) -> GetBucketVersioningOutput =
        |backend| buckets::get_versioning(backend, &req);
    list_objects(req: ListObjectsInput) -> ListObjectsOutput =
        |backend| list::list_objects(backend, req);
    list_objects_v2(req: ListObjectsV2Input) -> ListObjectsV2Output =
        |backend| list::list_objects_v2(backend, req);
    list_object_versions(req: ListObjectVersionsInput) -> ListObjectVersionsOutput =
        |backend| list_versions::list_object_versions(backend, req);
    head_object(req: HeadObjectInput) -> HeadObjectOutput =
        |backend| read::head_object(backend, req);
    get_object(req: GetObjectInput) -> GetObjectOutput =
        |backend| read::get_object(backend, req);
    put_object(req: PutObjectInput) -> PutObjectOutput =
        |backend| put::put_object(backend, req).await;
    copy_object(req: CopyObjectInput) -> CopyObjectOutput =
        |backend| copy::copy_object(backend, req);
    delete_object(req: DeleteObjectInput) -> DeleteObjectOutput =
        |backend| delete::delete_object(backend, &req);
    delete_objects(req: DeleteObjectsInput) -> DeleteObjectsOutput =
        |backend| delete::delete_objects(backend, &req);
    get_object_tagging(req: GetObjectTaggingInput) -> GetObjectTaggingOutput =
        |backend| tags::get(backend, &req);
    put_object_tagging(req: PutObjectTaggingInput) -> PutObjectTaggingOutput =
        |backend| tags::put(backend, req);
    delete_object_tagging(req: DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput =
        |backend| tags::delete(backend, req);
    create_multipart_upload(req: CreateMultipartUploadInput) -> CreateMultipartUploadOutput =
        |backend| multipart::create(backend, req);
    upload_part(req: UploadPartInput) -> UploadPartOutput =
        |backend| multipart::upload_part(backend, req).await;
    upload_part_copy(req: UploadPartCopyInput) -> UploadPartCopyOutput =
        |backend| multipart::upload_part_copy(backend, req);
    complete_multipart_upload(req: CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput =
        |backend| multipart::complete(backend, req);
    abort_multipart_upload(req: AbortMultipartUploadInput) -> AbortMultipartUploadOutput =
        |backend| multipart::abort(backend, &req);
    list_parts(req: ListPartsInput) -> ListPartsOutput =
        |backend| multipart_list::list_parts(backend, req);
    list_multipart_uploads(req: ListMultipartUploadsInput) -> ListMultipartUploadsOutput =
        |backend| multipart_list::list_uploads(backend, req);
}
